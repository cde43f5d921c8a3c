"""Cropping and shifting, against expectations made by hand and images that encode their coordinates."""

import tracemalloc

import numpy as np
import pytest

from dynet_jax.data.augment import (
    center_crop,
    make_test_transform,
    make_training_transform,
    random_resized_crop,
    random_shift,
    resize,
)
from dynet_jax.data.record import Record
from dynet_jax.errors import UserError
from tests.data.images import encoded


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixel at (y, x) is (y, x, 200)."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([y, x, np.full_like(y, 200)], axis=-1)


# Resizing


def test_resize_to_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(resize(pixels, 5, 7), pixels)


def test_resize_to_a_fraction_averages_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)
    expected = pixels.reshape(2, 3, 3, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(pixels, 2, 3), expected, atol=0.5001)


def test_resize_to_a_larger_size_interpolates_linearly():
    """Pixel centres lie at half-integers, and beyond the outer ones the image is constant."""
    row = np.array([[10, 50, 30]], np.uint8)
    pixels = np.repeat(np.repeat(row[..., None], 3, axis=-1), 3, axis=0)
    got = resize(pixels, 6, 6)
    expected = np.interp((np.arange(6) + 0.5) / 2 - 0.5, np.arange(3), row[0])
    np.testing.assert_allclose(got, np.broadcast_to(expected[None, :, None], got.shape), atol=1)


# Central crop


@pytest.mark.parametrize(
    ("height", "width", "size", "rows", "columns"),
    [
        (8, 8, 8, (0, 8), (0, 8)),
        (8, 13, 8, (0, 8), (2, 10)),  # one pixel more is left over on the right
        (15, 8, 8, (3, 11), (0, 8)),
        (11, 9, 4, (3, 7), (2, 6)),
        (3, 2, 1, (1, 2), (0, 1)),
    ],
)
def test_center_crop_without_resizing(height, width, size, rows, columns):
    image = coordinates(height, width)
    got = center_crop(image, size, resize_to=min(height, width))
    np.testing.assert_array_equal(got, image[slice(*rows), slice(*columns)])


@pytest.mark.parametrize(("height", "width"), [(120, 60), (60, 90), (61, 83), (31, 30)])
def test_center_crop_shows_the_middle(height, width):
    """The shorter side becomes 32 pixels and 28 of them remain: 28/32 of the shorter side, about the centre."""
    got = center_crop(coordinates(height, width), 28, resize_to=32).astype(float)
    assert got.shape == (28, 28, 3)
    shown = 28 / 32 * min(height, width)
    position = (np.arange(28) + 0.5) / 28 * shown  # of the pixels' centres, from the crop's edge
    pixel = min(height, width) / 32
    for axis, (length, values) in enumerate(((height, got[:, 0, 0]), (width, got[0, :, 1]))):
        expected = (length - shown) / 2 + position - 0.5
        np.testing.assert_allclose(values, expected, atol=pixel / 2 + 1, err_msg=f"axis {axis}")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (500, 3)])
def test_center_crop_of_tiny_images(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(center_crop(image, 8, resize_to=9), np.full((8, 8, 3), 77))


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 65_500)])
@pytest.mark.parametrize("crop", [center_crop, random_resized_crop])
def test_crops_of_a_line_take_little_memory(shape, crop):
    """A damaged header can result in such an image; resized whole, it would be 10 GB."""
    position = np.linspace(0, 255, max(shape)).astype(np.uint8)
    position = position[None, :, None] if shape[1] > shape[0] else position[:, None, None]
    image = np.ascontiguousarray(np.broadcast_to(position, (*shape, 3)))
    tracemalloc.start()
    got = center_crop(image, 224, 256) if crop is center_crop else crop(image, np.random.default_rng(0), 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    np.testing.assert_allclose(got.astype(int), 127, atol=1)  # the middle of the line


# Random crops

SIZE = 64


def crop_boxes(image, count, **options):
    """(height, width, top, left) of `count` random crops, read off the coordinates in their pixels."""
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(count):
        crop = random_resized_crop(image, rng, SIZE, **options).astype(float)
        assert crop.shape == (SIZE, SIZE, 3)
        assert (crop[..., 2] == 200).all()
        y, x = crop[:, SIZE // 2, 0], crop[SIZE // 2, :, 1]
        # Between the centres of the first and the last pixel lies 1 - 1/SIZE of the box.
        height, width = ((v[-1] - v[0]) / (1 - 1 / SIZE) for v in (y, x))
        boxes.append((height, width, y[SIZE // 2] - height / 2, x[SIZE // 2] - width / 2))
    return np.array(boxes).T


def test_random_resized_crop_covers_the_ranges_of_area_and_shape():
    height, width, top, left = crop_boxes(coordinates(200, 240), 2000)
    area, ratio = height * width / (200 * 240), width / height
    assert 0.06 < area.min() < 0.11
    assert 0.85 < area.max() < 1.03
    assert 0.70 < ratio.min() < 0.80
    assert 1.25 < ratio.max() < 1.42
    # Uniform area and log-uniform shape, of those that fit.
    rng = np.random.default_rng(1)
    drawn, shape = rng.uniform(0.08, 1, 100_000), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 100_000))
    fits = (drawn * 200 * 240 * shape <= 240**2) & (drawn * 200 * 240 / shape <= 200**2)
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    np.testing.assert_allclose(np.quantile(area, levels), np.quantile(drawn[fits], levels), atol=0.03)
    np.testing.assert_allclose(np.quantile(ratio, levels), np.quantile(shape[fits], levels), atol=0.03)
    small = area < 0.3  # these go everywhere, corners included
    assert top[small].min() < 12
    assert (top + height)[small].max() > 188
    assert left[small].min() < 12
    assert (left + width)[small].max() > 228
    assert abs((top + height / 2)[small].mean() - 100) < 6
    assert abs((left + width / 2)[small].mean() - 120) < 6


def test_random_resized_crop_of_a_given_area():
    height, width, _, _ = crop_boxes(coordinates(200, 240), 200, min_area=0.5)
    assert (height * width / (200 * 240)).min() > 0.45


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (3, 100)])
def test_random_resized_crop_of_images_that_it_does_not_fit(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    got = random_resized_crop(image, np.random.default_rng(0), 8, min_area=0.9)
    np.testing.assert_array_equal(got, np.full((8, 8, 3), 77))


def test_random_shift_moves_the_image_and_fills_with_black():
    image = coordinates(16, 16) + 1  # nothing in it is black
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        got = random_shift(image, rng, 16)
        dy, dx = (int(d) for d in image[8, 8, :2].astype(int) - got[8, 8, :2])  # the centre never leaves the image
        rows, columns = slice(max(dy, 0), 16 + min(dy, 0)), slice(max(dx, 0), 16 + min(dx, 0))
        np.testing.assert_array_equal(got[rows, columns], np.roll(image, (dy, dx), (0, 1))[rows, columns])
        assert np.count_nonzero(got.any(-1)) == (16 - abs(dy)) * (16 - abs(dx))
        seen.add((dy, dx))
    assert seen == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}  # an eighth of 16, both ways


def test_random_shift_resizes_first():
    image = np.full((4, 4, 3), 9, np.uint8)
    got = random_shift(image, np.random.default_rng(0), 32)
    assert got.shape == (32, 32, 3)
    assert (got == 9).mean() > 0.7


# Transforms of records


def test_training_transform_depends_on_the_rng_only():
    record = Record(encoded(coordinates(40, 50), "PNG"), 3, "x")
    for crop in ("random_resized_crop", "random_shift"):
        transform = make_training_transform(16, crop, flip=True)
        images = [transform(record, np.random.default_rng(seed))["image"] for seed in (0, 0, 1, 2, 3)]
        np.testing.assert_array_equal(images[0], images[1])
        assert len({image.tobytes() for image in images}) == 4


def test_training_transform_flips_half_of_the_images():
    image = coordinates(8, 8)
    transform, rng = make_training_transform(8, "none", flip=True), np.random.default_rng(0)
    results = [transform(Record(image, 5, "x"), rng) for _ in range(400)]
    flipped = [np.array_equal(result["image"], image[:, ::-1]) for result in results]
    straight = [np.array_equal(result["image"], image) for result in results]
    assert 160 < sum(flipped) < 240
    assert sum(flipped) + sum(straight) == 400
    assert {(result["label"].dtype.name, int(result["label"])) for result in results} == {("int32", 5)}
    transform = make_training_transform(8, "none", flip=False)
    assert all(np.array_equal(transform(Record(image, 5, "x"), rng)["image"], image) for _ in range(20))


def test_test_transform_is_the_central_crop():
    image = coordinates(20, 31)
    got = make_test_transform(16, 20)(Record(encoded(image, "PNG"), 2, "x"))
    np.testing.assert_array_equal(got["image"], image[2:18, 7:23])
    assert got["label"] == 2
    assert got["label"].dtype == np.int32


def test_transforms_name_a_corrupt_image():
    record = Record(b"junk", 0, "train/cat/7.jpg")
    with pytest.raises(UserError, match=r"train/cat/7\.jpg"):
        make_training_transform(8, "none", flip=True)(record, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"train/cat/7\.jpg"):
        make_test_transform(8, 8)(record)


def test_unknown_crop():
    with pytest.raises(UserError, match=r"unknown crop 'resized_crop'; did you mean random_resized_crop\?"):
        make_training_transform(8, "resized_crop", flip=True)
