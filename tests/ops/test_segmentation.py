"""Maps of classes against OpenCV and plain loops."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.ops.segmentation import (
    confusion_matrix,
    intersection_over_union,
    pixel_cross_entropy,
    resize_maps,
    sliding_windows,
    window_starts,
)

RNG = np.random.default_rng(0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 56), (5, 7), (33, 7), (1, 64), (6, 3)])
def test_resizing_is_opencvs(size):
    """OpenCV's bilinear, with pixels' centres; it does not average either where a map shrinks."""
    maps = RNG.normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for image in maps]
    np.testing.assert_allclose(resize_maps(maps, size), expected, atol=1e-5)


@pytest.mark.slow
def test_a_size_that_is_only_known_when_it_runs():
    maps = RNG.normal(size=(1, 5, 7, 3)).astype(np.float32)
    resize = jax.jit(lambda maps, size: resize_maps(maps, size, canvas=(20, 30)))
    for size in ((20, 30), (9, 23), (20, 1)):
        result = resize(maps, jnp.asarray(size))
        assert result.shape == (1, 20, 30, 3)
        np.testing.assert_allclose(result[:, : size[0], : size[1]], resize_maps(maps, size), atol=1e-5)


@pytest.mark.slow
def test_cross_entropy_of_every_pixel():
    logits = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = RNG.integers(0, 5, (2, 3, 4)).astype(np.uint8)
    labels[0, 0, :2] = 255
    expected = np.zeros(labels.shape)
    for place in np.ndindex(*labels.shape):
        if labels[place] != 255:
            p = np.exp(logits[place].astype(np.float64))
            expected[place] = -np.log(p[labels[place]] / p.sum())
    np.testing.assert_allclose(pixel_cross_entropy(logits, labels, 255), expected, atol=1e-6)

    gradient = jax.grad(lambda x: pixel_cross_entropy(x, labels, 255).sum())(logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    wanted = np.where((labels == 255)[..., None], 0, shares - (np.arange(5) == labels[..., None]))
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


def test_counts_of_pixels_are_exact():
    """Also where a pair has more pixels than a float of 16 bits can count."""
    labels = RNG.integers(0, 4, (300, 500)).astype(np.uint8)
    predictions = np.where(RNG.random(labels.shape) < 0.9, 0, labels)
    labels[:20] = 255
    expected = np.zeros((4, 4), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel()):
        if label != 255:
            expected[label, prediction] += 1
    np.testing.assert_array_equal(confusion_matrix(predictions, labels, 4, 255), expected)


def test_intersection_over_union_by_hand():
    confusion = np.asarray([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(intersection_over_union(confusion), [3 / 6, 4 / 7, np.nan])


@pytest.mark.parametrize("size", [(10, 12), (4, 4), (11, 5), (3, 9)])
def test_windows_are_averaged(size):
    """The network here adds the mean of the window that it sees, so that windows differ where they overlap."""
    images = RNG.normal(size=(2, *size, 3)).astype(np.float32)
    window, stride = (4, 5), (3, 2)

    def apply(crops):
        return crops + crops.mean((1, 2), keepdims=True)

    inside = [min(pair) for pair in zip(window, size)]
    total, counts = np.zeros(images.shape), np.zeros((*size, 1))
    for top in window_starts(size[0], window[0], stride[0]):
        for left in window_starts(size[1], window[1], stride[1]):
            place = np.s_[top : top + inside[0], left : left + inside[1]]
            crop = images[:, *place]
            total[:, *place] += crop + crop.mean((1, 2), keepdims=True)
            counts[place] += 1
    assert counts.min() >= 1
    np.testing.assert_allclose(sliding_windows(apply, images, window, stride), total / counts, atol=1e-5)
