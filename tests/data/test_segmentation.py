"""Images with class maps: their sources, and their joint augmentation."""

import io

import numpy as np
import pytest
from PIL import Image

from dynet_jax.data import CorruptImages, evaluation_batches, load_source, training_batches
from dynet_jax.data.maps import CAMVID
from dynet_jax.data.record import IGNORED, Record
from dynet_jax.data.segmentation_augment import (
    distort_colors,
    make_test_transform,
    make_training_transform,
    random_scaled_crop,
)
from dynet_jax.errors import UserError
from tests.data.maps import CLASSES, write_maps

SIZES = {"train": [(20, 30), (31, 17)], "val": [(12, 20)], "test": [(9, 9), (10, 10)]}


def test_a_folder_of_maps(tmp_path):
    scenes = write_maps(tmp_path, SIZES)
    for split, folder in (("train", "train"), ("test", "val"), ("held_out", "test")):
        source = load_source(f"maps:{tmp_path}", split, task="segmentation")
        assert (len(source), source.class_names) == (len(SIZES[folder]), CLASSES)
        for index, (image, labels) in enumerate(scenes[folder]):
            record = source[index]
            assert record.name == source.name_of(index) == str(tmp_path / folder / f"{index:03}.png")
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(record.image))), image)
            np.testing.assert_array_equal(record.label.decode(), labels)


def test_camvids_classes(tmp_path):
    """Its twelfth value is void."""
    write_maps(tmp_path, {"train": [(4, 12)], "val": [(4, 12)]})
    values = np.tile(np.arange(12, dtype=np.uint8), (4, 1))
    Image.fromarray(values).save(tmp_path / "trainannot/000.png")
    source = load_source(f"camvid:{tmp_path}", "train", task="segmentation")
    assert source.class_names == CAMVID
    np.testing.assert_array_equal(source[0].label.decode()[0], [*range(11), IGNORED])


def break_label(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_unknown_classes_end_the_run(tmp_path, workers):
    write_maps(tmp_path, {"train": [(8, 8)] * 3, "val": [(8, 8)]})
    break_label(tmp_path / "trainannot/001.png", [[0, 7, 9], [1, 2, 255]])
    source = load_source(f"maps:{tmp_path}", "train", task="segmentation")
    transform = make_training_transform((4, 4), (1.0, 1.0), flip=False, distortion=False)
    batches = training_batches(source, transform, batch_size=3, seed=0, start_step=0, workers=workers)
    with pytest.raises(
        UserError, match=r"trainannot/001\.png has pixels of 7, 9, which are neither one of the 3 classes"
    ):
        next(batches)


def test_what_is_damaged_is_reported(tmp_path, capsys):
    write_maps(tmp_path, {"train": [(8, 8)], "val": [(8, 8)] * 4})
    (tmp_path / "valannot/000.png").write_bytes(b"junk")
    break_label(tmp_path / "valannot/001.png", np.zeros((8, 9)))
    break_label(tmp_path / "valannot/002.png", np.zeros((8, 8, 3)))
    source = load_source(f"maps:{tmp_path}", "test", task="segmentation")
    transform = make_test_transform((8, 8), (8, 8))
    blank = {"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8), "size": np.ones(2, np.int32)}
    (batch,) = evaluation_batches(source, transform, blank=blank, batch_size=4, corrupt=CorruptImages(3))
    assert batch["mask"].tolist() == [0, 0, 0, 1]
    said = capsys.readouterr().err
    for part in ("000.png is not a label file", "different sizes: 8x8 and 8x9", "002.png is not a label file"):
        assert part in said


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("maps:{}/nowhere", "train", "nowhere/classes.txt cannot be read"),
        ("camvid:{}/nowhere", "train", "there is no .*nowhere/train with .*nowhere/trainannot"),
        ("maps:{}", "test", "there is no .*/val with"),
        ("cityscape", "train", "unknown dataset 'cityscape' of maps; did you mean cityscapes"),
        ("cityscapes", "held_out", "labels of Cityscapes' test images are not public"),
        ("maps:gs://bucket", "train", "is an address, not a folder"),
    ],
)
def test_mistakes(tmp_path, dataset, split, message):
    write_maps(tmp_path, {"train": [(8, 8)]})
    with pytest.raises(UserError, match=message):
        load_source(dataset.format(tmp_path), split, task="segmentation")


def test_a_label_without_an_image(tmp_path):
    write_maps(tmp_path, {"train": [(8, 8)] * 2})
    (tmp_path / "train/001.png").unlink()
    with pytest.raises(UserError, match="do not fit: 001 has no counterpart"):
        load_source(f"maps:{tmp_path}", "train", task="segmentation")


def test_labels_of_few_bits_are_refused_and_palettes_are_read(tmp_path):
    """Decoded, 1 bit would be 0 and 255; a palette's index is the class."""
    write_maps(tmp_path, {"train": [(8, 8)]})
    values = np.asarray(np.arange(64).reshape(8, 8) % 2, np.uint8)
    path = tmp_path / "trainannot/000.png"
    Image.fromarray(values * 255).convert("1").save(path)
    with pytest.raises(UserError, match="is not a label file: one channel of 8 bits"):
        load_source(f"maps:{tmp_path}", "train", task="segmentation")[0].label.decode()
    palette = Image.fromarray(values).convert("P")
    palette.putdata(values.ravel().tolist())
    palette.putpalette([250, 10, 10, 10, 250, 10])
    palette.save(path)
    np.testing.assert_array_equal(
        load_source(f"maps:{tmp_path}", "train", task="segmentation")[0].label.decode(), values
    )


def test_folders_in_folders(tmp_path):
    """A name is of a file in its folder; two files of one name are refused."""
    write_maps(tmp_path, {"train": [(8, 8)] * 2})
    for folder in ("train", "trainannot"):
        for city in ("a", "b"):
            (tmp_path / folder / city).mkdir()
        (tmp_path / folder / "000.png").rename(tmp_path / folder / "a" / "1.png")
        (tmp_path / folder / "001.png").rename(tmp_path / folder / "b" / "1.png")
    source = load_source(f"maps:{tmp_path}", "train", task="segmentation")
    assert [source.name_of(index)[-7:] for index in range(len(source))] == ["a/1.png", "b/1.png"]
    (tmp_path / "train/a/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="have the same stem"):
        load_source(f"maps:{tmp_path}", "train", task="segmentation")


def test_another_folder_does_not_stand_in_for_labels_that_are_missing(tmp_path):
    write_maps(tmp_path, {"val": [(8, 8)], "test": [(8, 8)]})
    (tmp_path / "valannot").rename(tmp_path / "val_annot")
    with pytest.raises(UserError, match=r"there is no .*/val with .*/valannot"):
        load_source(f"maps:{tmp_path}", "test", task="segmentation")


def test_cityscapes_is_named_with_its_command(tmp_path):
    with pytest.raises(UserError, match="dynet prepare cityscapes --archives=DIR_WITH_BOTH_ZIP_FILES"):
        load_source("cityscapes", "train", str(tmp_path), task="segmentation")


def gradient(height, width):
    """An image whose colours are the row and the column, and labels of 16 x 16 squares that they determine."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return image, _label_of(rows, columns).astype(np.uint8)


def _label_of(rows, columns):
    return np.round(rows).astype(int) // 16 * 8 + np.round(columns).astype(int) // 16


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_stay_together(scale, flip):
    """The colours of a pixel say where it comes from, and so what its label must be, but at the squares' edges."""
    image, label = gradient(100, 120)
    transform = make_training_transform((48, 56), (scale, scale), flip=flip, distortion=False)
    agreement, flipped = [], 0
    for seed in range(10):
        arrays = transform(Record(image, label, "x"), np.random.default_rng(seed))
        assert (arrays["image"].shape, arrays["label"].shape) == ((48, 56, 3), (48, 56))
        counted = arrays["label"] != IGNORED
        rows, columns = (arrays["image"][..., axis].astype(float) for axis in (0, 1))
        agreement.append(np.mean(_label_of(rows, columns)[counted] == arrays["label"][counted]))
        flipped += columns[24, 20] > columns[24, 30]
    assert np.mean(agreement) > 0.9
    assert (flipped > 0) == flip
    at_all_places = np.mean(_label_of(*np.roll(np.mgrid[:48, :56], 16, axis=2)) == arrays["label"])
    assert at_all_places < 0.5  # labels elsewhere are others, so that the agreement says something


def test_what_lies_outside_is_ignored():
    """An image smaller than the crop is seen whole, at a random place."""
    image, label = np.full((20, 30, 3), 200, np.uint8), np.tile(np.arange(3, dtype=np.uint8), (20, 10))
    places = set()
    for seed in range(8):
        crop, labels = random_scaled_crop(image, label, np.random.default_rng(seed), (32, 40), (1.0, 1.0))
        assert (crop.shape, labels.shape) == ((32, 40, 3), (32, 40))
        inside = labels != IGNORED
        assert inside.sum() == 20 * 30
        assert (crop[inside] == 200).all()
        assert not crop[~inside].any()
        rows, columns = np.nonzero(inside)
        top, left = rows.min(), columns.min()
        np.testing.assert_array_equal(labels[top : top + 20, left : left + 30], label)
        places.add((top, left))
    assert len(places) > 4


def test_the_same_rng_gives_the_same_example():
    image, label = gradient(64, 64)
    transform = make_training_transform((32, 32), (0.5, 2.0), flip=True, distortion=True)
    one, two, other = (transform(Record(image, label, "x"), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one["image"], two["image"])
    np.testing.assert_array_equal(one["label"], two["label"])
    assert (one["image"] != other["image"]).any()


def test_parts_with_one_class_are_avoided():
    """If one class covers three quarters, another region is tried; an image of one class accepts any region."""
    label = np.zeros((64, 256), np.uint8)
    label[:, 224:] = np.arange(32) % 2 + 1
    image = np.zeros((64, 256, 3), np.uint8)
    largest = []
    for seed in range(20):
        _, part = random_scaled_crop(image, label, np.random.default_rng(seed), (32, 32), (1.0, 1.0))
        largest.append(np.bincount(part.ravel()).max() / part.size)
    anywhere = 1 - 24 / 225  # of the columns where a part can begin, those with enough of another class
    assert np.mean(np.asarray(largest) > 0.75) < 0.6 < anywhere
    random_scaled_crop(image, label * 0, np.random.default_rng(0), (32, 32), (1.0, 1.0))


def test_parts_in_which_something_counts_are_preferred():
    label = np.full((64, 256), IGNORED, np.uint8)
    label[:, 128:] = np.arange(128) % 2
    counts = []
    for seed in range(20):
        _, part = random_scaled_crop(
            np.zeros((64, 256, 3), np.uint8), label, np.random.default_rng(seed), (32, 32), (1.0, 1.0)
        )
        counts.append((part != IGNORED).any())
    assert all(counts)  # of places chosen once, 97 of 225 have nothing


def test_colors_are_distorted_in_bounds():
    image = np.full((4, 4, 3), (200, 120, 60), np.uint8)
    results = [distort_colors(image, np.random.default_rng(seed)) for seed in range(200)]
    means = np.asarray([result.mean() for result in results])
    assert means.min() < 90 < 160 < means.max()
    assert 0.02 < np.mean([(result == image).all() for result in results]) < 0.3  # 1/16, and rounding


def test_a_label_keeps_its_size_in_evaluation():
    image, label = gradient(20, 30)
    transform = make_test_transform((16, 16), (24, 32))
    arrays = transform(Record(image, label, "x"))
    assert arrays["image"].shape == (16, 16, 3)
    assert arrays["size"].tolist() == [20, 30]
    np.testing.assert_array_equal(arrays["label"][:20, :30], label)
    assert (arrays["label"][20:] == IGNORED).all()
    assert (arrays["label"][:, 30:] == IGNORED).all()
    with pytest.raises(UserError, match=r"the label of x is 20x30, larger than .* --config.data.label_size=\[20,30\]"):
        make_test_transform((16, 16), (8, 30))(Record(image, label, "x"))
