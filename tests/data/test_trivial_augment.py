"""TrivialAugment against NumPy and Pillow, and random erasing against the values of its paper."""

import collections

import numpy as np
import pytest
from PIL import Image

from dynet_jax.data.augment import make_training_transform
from dynet_jax.data.random_erasing import random_erasing
from dynet_jax.data.record import Record
from dynet_jax.data.trivial_augment import OPERATIONS, applied, trivial_augment
from tests.data.images import textured

IMAGE = textured(40, 48)


def grey(image):
    """ITU-R 601-2 luma, as Pillow rounds it."""
    return (image @ np.array([19595, 38470, 7471]) + 0x8000).astype(np.int64) >> 16


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("auto_contrast", "equalize")])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_strength_nothing_changes(name, sign):
    np.testing.assert_array_equal(applied(IMAGE, name, 0.0, sign), IMAGE)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_colours_are_blended(strength, sign):
    """Of the image and black, its grey, or its mean grey."""
    factor, pixels = 1 + sign * 0.99 * strength, IMAGE.astype(float)
    others = {
        "brightness": np.zeros_like(pixels),
        "color": np.repeat(grey(IMAGE)[..., None], 3, axis=-1),
        "contrast": np.full_like(pixels, int(grey(IMAGE).mean() + 0.5)),
    }
    for name, other in others.items():
        expected = np.clip(other + factor * (pixels - other), 0, 255)
        np.testing.assert_allclose(applied(IMAGE, name, strength, sign).astype(float), expected, atol=1.01)


def test_bits_and_thresholds():
    np.testing.assert_array_equal(applied(IMAGE, "posterize", 1.0, 1), IMAGE & 0b11000000)
    np.testing.assert_array_equal(applied(IMAGE, "posterize", 0.5, 1), IMAGE & 0b11111000)
    np.testing.assert_array_equal(applied(IMAGE, "solarize", 1.0, 1), 255 - IMAGE)
    half = applied(IMAGE, "solarize", 0.5, 1)
    np.testing.assert_array_equal(half, np.where(IMAGE >= 128, 255 - IMAGE, IMAGE))


def test_histograms():
    low = (IMAGE // 2 + 30).astype(np.uint8)
    stretched = applied(low, "auto_contrast", 0.3, 1)
    assert (stretched.min((0, 1)) == 0).all()
    assert (stretched.max((0, 1)) == 255).all()
    flat = applied(low, "equalize", 0.3, 1)
    for channel in range(3):  # the distribution function is nearly a straight line
        values = low[..., channel].ravel()
        below = np.array([np.sum(values < value) for value in values])
        step = np.sum(values < values.max()) // 255
        expected = np.minimum((below + step // 2) // step, 255)
        np.testing.assert_array_equal(flat[..., channel].ravel(), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_geometry(sign):
    """Pixels that come from outside are black."""
    moved = sign * 16
    shifted = np.zeros_like(IMAGE)
    to, of = (slice(None, -16), slice(16, None))[::sign]
    shifted[:, to] = IMAGE[:, of]
    np.testing.assert_array_equal(applied(IMAGE, "translate_x", 0.5, sign), shifted)
    vertical = np.zeros_like(IMAGE)
    vertical[to] = IMAGE[of]
    np.testing.assert_array_equal(applied(IMAGE, "translate_y", abs(moved) / 32, sign), vertical)
    turned = Image.fromarray(IMAGE).rotate(sign * 90)
    np.testing.assert_array_equal(applied(IMAGE, "rotate", 90 / 135, sign), np.asarray(turned))
    sheared = applied(IMAGE, "shear_x", 1.0, sign)
    for row in range(40):
        columns = np.floor(np.arange(48) + 0.5 + sign * 0.99 * (row + 0.5)).astype(int)
        inside = (columns >= 0) & (columns < 48)
        np.testing.assert_array_equal(sheared[row, inside], IMAGE[row, columns[inside]])
        assert not sheared[row, ~inside].any()
    np.testing.assert_array_equal(
        applied(IMAGE, "shear_y", 1.0, sign), applied(IMAGE.swapaxes(0, 1).copy(), "shear_x", 1.0, sign).swapaxes(0, 1)
    )


def test_sharpness_moves_away_from_the_smoothed_image():
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smoothed, pixels = IMAGE.astype(float), IMAGE.astype(float)
    inner = sum(kernel[y, x] * pixels[y : y + 38, x : x + 46] for y in range(3) for x in range(3))
    smoothed[1:-1, 1:-1] = np.floor(inner + 0.5)
    for sign in (1, -1):
        expected = np.clip(smoothed + (1 + sign * 0.495) * (pixels - smoothed), 0, 255)
        np.testing.assert_allclose(applied(IMAGE, "sharpness", 0.5, sign).astype(float), expected, atol=2)


def test_operations_and_strengths_are_equally_likely(monkeypatch):
    drawn = []
    monkeypatch.setattr("dynet_jax.data.trivial_augment.applied", lambda image, *how: drawn.append(how) or image)
    rng = np.random.default_rng(0)
    for _ in range(8680):
        trivial_augment(IMAGE, rng)
    names, strengths, signs = (collections.Counter(each) for each in zip(*drawn))
    assert set(names) == set(OPERATIONS)
    assert len(OPERATIONS) == 14
    np.testing.assert_allclose(list(names.values()), 620, atol=110)
    np.testing.assert_allclose(sorted(strengths), np.arange(31) / 30)
    np.testing.assert_allclose(list(strengths.values()), 280, atol=70)
    np.testing.assert_allclose(list(signs.values()), 4340, atol=200)


# Random erasing


def test_a_rectangle_is_erased_as_often_as_asked():
    rng, black, areas = np.random.default_rng(0), np.zeros((50, 60, 3), np.uint8), []
    for _ in range(1000):
        got = random_erasing(black, rng, 0.3)
        changed = got.any(-1)
        if not changed.any():
            continue
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() > 0.97 * box  # a random pixel is seldom black
        areas.append(box / 3000)
        ratio = (rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1)
        assert 0.25 < ratio < 4
    assert len(areas) / 1000 == pytest.approx(0.3, abs=0.05)
    assert 0.015 < min(areas) < 0.04
    assert 0.3 < max(areas) < 0.36
    assert not black.any()


def test_noise_is_uniform():
    got = random_erasing(np.zeros((400, 400, 3), np.uint8), np.random.default_rng(1), 1.0)
    values = got[got.any(-1)]
    assert values.mean() == pytest.approx(127.5, abs=2)
    assert values.std() == pytest.approx(73.9, abs=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 2)])
def test_tiny_images_are_left(shape):
    image = np.zeros((*shape, 3), np.uint8)
    assert random_erasing(image, np.random.default_rng(0), 1.0).shape == image.shape


# In the transform


def test_what_is_off_draws_nothing():
    record = Record(IMAGE, 3, "a")
    plain = make_training_transform(16, "random_resized_crop", flip=True)
    off = make_training_transform(16, "random_resized_crop", flip=True, trivial=False, erasing=0.0, noise=False)
    rngs = [np.random.default_rng(5) for _ in range(2)]
    for key, value in plain(record, rngs[0]).items():
        np.testing.assert_array_equal(off(record, rngs[1])[key] if key == "image" else value, value)
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_noise_follows_all_that_is_drawn_before_and_changes_nothing_else():
    record = Record(IMAGE, 3, "a")
    options = {"trivial": True, "erasing": 0.5}
    arrays = [
        make_training_transform(16, "none", flip=True, noise=noise, **options)(record, np.random.default_rng(5))
        for noise in (False, True)
    ]
    np.testing.assert_array_equal(arrays[0]["image"], arrays[1]["image"])
    assert "noise" not in arrays[0]
    assert arrays[1]["noise"].dtype == np.uint32
