"""Every dataset that needs no preparation: its content, and the message if it is missing."""

import gzip
import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dynet_jax.data import load_source
from dynet_jax.data.source import list_datasets
from dynet_jax.data.synthetic import SyntheticSource
from dynet_jax.errors import UserError


def stacked(source):
    """All images and all labels of a source of arrays."""
    records = [source[index] for index in range(len(source))]
    return np.stack([record.image for record in records]), np.array([record.label for record in records])


def test_digits_are_every_one_of_scikit_learns_in_one_split_or_the_other():
    digits = load_digits()
    images, labels = {}, {}
    for split in ("train", "test"):
        images[split], labels[split] = stacked(load_source("digits", split))
    assert images["train"].shape == (1438, 8, 8, 3)
    assert images["test"].shape == (359, 8, 8, 3)
    # Images 4, 9, 14, ... are for testing, and nothing is in both.
    places = {"test": range(4, 1797, 5), "train": [index for index in range(1797) if index % 5 != 4]}
    for split, indices in places.items():
        np.testing.assert_array_equal(labels[split], digits.target[list(indices)])
        for image, index in zip(images[split], indices):
            for channel in range(3):  # 0..16 -> 0..255
                np.testing.assert_allclose(image[..., channel] * (16 / 255), digits.images[index], atol=0.05)


def test_digits_cover_the_range():
    images, _ = stacked(load_source("digits", "test"))
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)


def idx(values: np.ndarray) -> bytes:
    """The idx format, written from its description: magic, sizes, bytes."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 5), ("t10k", 3)):
        images, labels = rng.integers(0, 256, (count, 4, 6), np.uint8), np.arange(count, dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


@pytest.mark.parametrize(("split", "prefix", "count"), [("train", "train", 5), ("test", "t10k", 3)])
def test_idx_files(idx_folder, split, prefix, count):
    source = load_source("fashion_mnist", split, str(idx_folder))
    images, labels = stacked(source)
    content = gzip.decompress((idx_folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(content[16:], np.uint8)
    assert images.shape == (count, 4, 6, 3)
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel].ravel(), pixels)
    assert labels.tolist() == list(range(count))
    assert len(source.class_names) == 10
    assert source.class_names[9] == "ankle-boot"


def test_idx_file_missing(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    load_source("fashion_mnist", "train", str(idx_folder))
    with pytest.raises(UserError, match=r"there is no .*t10k-labels-idx1-ubyte\.gz; .*data_dir=DIR"):
        load_source("fashion_mnist", "test", str(idx_folder))


LABELS = np.arange(5, dtype=np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(idx(LABELS))[:-10],
        gzip.compress(idx(LABELS)[:-1]),
        gzip.compress(idx(LABELS) + b"\0"),
        gzip.compress(idx(LABELS)[:6]),
        gzip.compress(b""),
        gzip.compress(b"\0\0\x0d\x01" + idx(LABELS)[4:]),
        gzip.compress(idx(LABELS[:, None, None])),
        idx(LABELS),
        b"",
        b"<html>404 not found</html>",
        gzip.compress(idx(LABELS))[:12] + b"\xff" * 8 + gzip.compress(idx(LABELS))[20:],
    ],
    ids=[
        "cut archive",
        "a label short",
        "a label long",
        "cut header",
        "empty archive",
        "floats",
        "images for labels",
        "not compressed",
        "empty file",
        "web page",
        "damaged archive",
    ],
)
def test_idx_file_damaged(idx_folder, content):
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is not an intact idx file .*; download it again"):
        load_source("fashion_mnist", "train", str(idx_folder))


def test_idx_files_of_different_length(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:4])))
    with pytest.raises(UserError, match="5 train images but 4 labels"):
        load_source("fashion_mnist", "train", str(idx_folder))


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((4, 5, 3), value, np.uint8))
    return path


@pytest.fixture
def image_folder(tmp_path):
    for name in ("train/cat/b.png", "train/cat/a.PNG", "train/ant/1.jpeg", "train/dog/deep/x.bmp", "val/dog/y.png"):
        write_image(tmp_path / name, 7)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/readme.md").write_text("not a class")
    return tmp_path


def test_folder(image_folder):
    train, test = (load_source(f"folder:{image_folder}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["ant", "cat", "dog"]
    files = ["train/ant/1.jpeg", "train/cat/a.PNG", "train/cat/b.png", "train/dog/deep/x.bmp"]
    records = [train[index] for index in range(len(train))]
    assert [(record.name, record.label) for record in records] == [
        (str(image_folder / name), label) for name, label in zip(files, [0, 1, 1, 2])
    ]
    assert [record.image for record in records] == [(image_folder / name).read_bytes() for name in files]
    assert [(record.name, record.label) for record in test] == [(str(image_folder / "val/dog/y.png"), 2)]


def test_folder_is_in_the_same_order_on_every_machine(tmp_path):
    names = [f"{number:02}.png" for number in range(30)]
    for name in np.random.default_rng(0).permutation(names):
        write_image(tmp_path / "train/cat" / name, 7)
    source = load_source(f"folder:{tmp_path}", "train")
    assert [Path(record.name).name for record in source] == names


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_folder_of_test_images_by_another_name(image_folder, name):
    (image_folder / "val").rename(image_folder / name)
    assert len(load_source(f"folder:{image_folder}", "test")) == 1


def test_folder_in_the_home_directory(image_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    assert len(load_source(f"folder:~/{image_folder.name}", "train")) == 4


def test_folder_without_a_split(image_folder):
    (image_folder / "val").rename(image_folder / "holdout")
    with pytest.raises(
        UserError, match=r"there is no .*val or .*valid or .*validation or .*test; .* PATH/train/CLASS/\*\.jpg"
    ):
        load_source(f"folder:{image_folder}", "test")
    with pytest.raises(UserError, match=r"there is no .*nowhere/train; an image folder is laid out as"):
        load_source(f"folder:{image_folder}/nowhere", "train")


def test_folder_with_classes_that_were_not_trained(image_folder):
    write_image(image_folder / "val/emu/z.png", 1)
    with pytest.raises(UserError, match=r"val has classes that .*train does not have: emu"):
        load_source(f"folder:{image_folder}", "test")


def test_folder_without_images(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"no images below .*train; it must hold one folder of images per class"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat").mkdir()
    with pytest.raises(UserError, match="no images below"):
        load_source(f"folder:{tmp_path}", "train")


def test_synthetic_images_are_a_function_of_the_index():
    one, other = SyntheticSource(examples=3000, image_size=16), SyntheticSource(examples=3000, image_size=16)
    assert len(one) == 3000
    for index in (0, 1, 999, 1000, 2999):
        a, b = one[index], other[index]
        np.testing.assert_array_equal(a.image, b.image)
        assert a.image.shape == (16, 16, 3)
        assert a.label == b.label == index % 1000
    assert len({one[index].image.tobytes() for index in range(256)}) == 256


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("digit", "unknown dataset 'digit'; did you mean digits?"),
        ("imagenet", "unknown dataset 'imagenet'; did you mean imagenet2012?"),
        ("folder:", "unknown dataset 'folder:'; did you mean folder:PATH?"),
        ("qqq", f"unknown dataset 'qqq'; choose from: {', '.join(list_datasets('classification'))}"),
    ],
)
def test_unknown_dataset(dataset, message):
    with pytest.raises(UserError) as caught:
        load_source(dataset, "train")
    assert str(caught.value) == message


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "folder", "synthetic"])
def test_sources_can_be_sent_to_another_process(dataset, idx_folder, image_folder):
    name = f"folder:{image_folder}" if dataset == "folder" else dataset
    source = load_source(name, "train", str(idx_folder))
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    assert copy.class_names == source.class_names
    index = len(source) - 1
    np.testing.assert_array_equal(copy[index].image, source[index].image)
    assert copy[index][1:] == source[index][1:]
