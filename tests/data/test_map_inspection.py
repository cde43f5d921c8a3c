"""Labels that mean something else than intended are found before a run."""

import numpy as np
import pytest
from PIL import Image

from dynet_jax.data import load_source
from dynet_jax.data.loading import read_record
from dynet_jax.data.map_inspection import inspect_maps
from dynet_jax.errors import UserError
from tests.data.maps import CLASSES, write_maps

SIZES = {"train": [(20, 30)] * 3, "val": [(12, 20), (24, 8)]}


@pytest.fixture
def root(tmp_path):
    write_maps(tmp_path, SIZES)
    return tmp_path


def inspect(root, split="train", max_corrupt=0):
    return inspect_maps(load_source(f"maps:{root}", split, task="segmentation"), max_corrupt)


def change_labels(root, split, change):
    for path in (root / f"{split}annot").iterdir():
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def test_the_size_that_all_labels_fit_into(root):
    assert inspect(root).largest == (20, 30)
    assert inspect(root, "test").largest == (24, 20)
    assert inspect(root).contents.notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda label: np.where(label == 1, 255, 0), r"one class only, earth, and others .* written with 0 and 1"),
        (lambda label: np.full_like(label, 255), "have no pixel of a class"),
        (lambda label: np.where(label == 1, 128, 0), "has pixels of 128, which are neither one of the 3 classes"),
        (lambda label: np.where(label == 255, 255, label + 1), "has pixels of 3, which are neither one of the"),
    ],
    ids=["0 and 255", "nothing", "0 and 128", "from 1 on"],
)
def test_values_that_are_no_classes(root, change, message):
    change_labels(root, "train", lambda label: change(label).astype(np.uint8))
    with pytest.raises(UserError, match=message):
        inspect(root)


@pytest.mark.parametrize(
    ("split", "values"),
    [("train", (2, 2)), ("train", (1, 255)), ("train", (0, 0)), ("val", (0, 255)), ("val", (1, 255))],
)
def test_one_class_that_may_be_meant_is_said(root, split, values):
    change_labels(root, split, lambda label: np.where(label == 1, *values).astype(np.uint8))
    (note,) = inspect(root, "train" if split == "train" else "test").contents.notes
    name, rest = CLASSES[min(values)], ", and others that are ignored" if 255 in values else ""
    assert note == f"the labels in {split}annot have pixels of one class only, {name}{rest}"


def test_one_class_is_enough_for_an_evaluation(root):
    (root / "classes.txt").write_text("earth\n")
    change_labels(root, "val", lambda label: np.where(label == 1, 255, 0).astype(np.uint8))
    assert inspect(root, "test").contents.notes == ()
    with pytest.raises(UserError, match=r"classes\.txt names 1 classes; there must be 2 to 253"):
        inspect(root)


def test_a_rare_class_is_looked_for_in_all_labels(tmp_path):
    write_maps(tmp_path, {"train": [(6, 4)] * 130})
    change_labels(tmp_path, "train", np.zeros_like)
    Image.fromarray(np.eye(6, 4, dtype=np.uint8)).save(tmp_path / "trainannot/065.png")
    assert inspect(tmp_path).contents.notes == ("no pixel of sky in 130 labels of trainannot",)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("jpg", {}), ("jp2", {}), ("tif", {"compression": "jpeg"})],
)
def test_labels_whose_compression_changes_them(root, kind, options):
    label = root / "trainannot/001.png"
    Image.open(label).save(root / f"trainannot/001.{kind}", **options)
    label.unlink()
    with pytest.raises(UserError, match=rf"1 of 3 labels are JPEG files.*originals as PNG: 001\.{kind} of .*train"):
        inspect(root)


def test_a_jpeg_by_the_name_of_a_png(root):
    Image.open(root / "trainannot/001.png").save(root / "trainannot/001.png", "JPEG")
    with pytest.raises(UserError, match="are JPEG files"):
        inspect(root)


def turn(path, orientation, size, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size[::-1]).save(path, kind, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_that_are_turned_beside_labels_that_are_not(root, orientation, kind):
    turn(root / "train/001.png", orientation, (20, 30), kind)
    with pytest.raises(
        UserError, match=r"1 of 3 images are rotated by their EXIF orientation .*: 001\.png of .*/train"
    ):
        inspect(root, max_corrupt=9)


@pytest.fixture(params=[(3, (20, 30)), (2, (20, 30)), (6, (30, 30))], ids=str)
def unclear(request, root):
    turn(root / "train/001.png", *request.param)
    Image.new("L", request.param[1][::-1]).save(root / "trainannot/001.png")
    return root


def test_an_image_whose_label_fits_either_way_is_said(unclear):
    (note,) = inspect(unclear).contents.notes
    said = (
        "1 images of train are rotated by their EXIF orientation: 001.png; make sure that their labels are rotated, too"
    )
    assert note == said


def test_other_images_of_the_folder_show_what_labels_are_of(unclear):
    turn(unclear / "train/002.png", 6, (30, 20))
    assert inspect(unclear).contents.notes == ()
    turn(unclear / "train/002.png", 6, (20, 30))
    with pytest.raises(UserError, match=r"2 of 3 images are rotated .*: 001\.png, 002\.png of .*/train"):
        inspect(unclear)


def test_a_turned_label(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(root / "trainannot/001.png").save(root / "trainannot/001.png", exif=exif)
    with pytest.raises(UserError, match="rotated by their EXIF orientation"):
        inspect(root)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_label_of_the_image_as_it_is_shown_is_right(root, kind):
    turn(root / "train/001.png", 6, (30, 20), kind)
    assert inspect(root).largest == (20, 30)
    source = load_source(f"maps:{root}", "train", task="segmentation")
    assert read_record(source, 1).image.shape[:2] == (20, 30)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((20, 31), np.uint8), "train/001.png and its label have different sizes: 20x30 and 20x31"),
        (np.zeros((20, 30, 3), np.uint8), "trainannot/001.png is not a label file: .*; it has mode RGB"),
        (np.zeros((20, 30), np.uint16), "it has mode I;16"),
        (np.zeros((20, 30), bool), "it has less than 8 bits"),
        (np.zeros((20, 30, 2), np.uint8), "it has mode LA"),
    ],
    ids=["size", "RGB", "16 bits", "1 bit", "transparent"],
)
def test_later_labels_of_another_size_or_type(root, label, message):
    Image.fromarray(label).save(root / "trainannot/001.png")
    with pytest.raises(UserError, match=message + r"; pairs that do not fit: 1 of 3, more than .*max_corrupt=0"):
        inspect(root)
    inspect(root, max_corrupt=1)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_label(root, content):
    (root / "trainannot/001.png").write_bytes(content)
    with pytest.raises(UserError, match=r"001\.png is damaged, or not a label file; pairs that do not fit: 1 of"):
        inspect(root)
    assert inspect(root, max_corrupt=1).largest == (20, 30)


def test_an_image_that_cannot_be_opened_is_left_to_the_decoder(root):
    (root / "train/002.png").write_bytes(b"")
    assert inspect(root).largest == (20, 30)


def test_what_is_skipped_is_said(root):
    (root / "train/.ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train/.ipynb_checkpoints/000-checkpoint.png")
    (root / "trainannot/notes.txt").touch()
    (note,) = inspect(root).contents.notes
    assert "skipped in train: 1 hidden or tool folder (train/.ipynb_checkpoints), 1 .txt file (trainannot/no" in note
