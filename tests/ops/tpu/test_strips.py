"""Images in strips: against numpy, and a convolution of strips against that of the images."""

import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.ops import conv
from dynet_jax.ops.strips import cut, cut_with_margins, for_strips, join, strips_of, sum_of_strips
from dynet_jax.ops.window import make_window


@pytest.mark.parametrize(
    ("shape", "strips"),
    [
        ((64, 112, 112, 18), 2),
        ((8, 112, 112, 18), 16),
        ((8, 56, 56, 24), 8),
        ((8, 28, 28, 36), None),  # 4 strips of 8 images would be a quarter of the lanes
        ((48, 57, 57, 24), None),  # an odd number of rows, and too few images
        ((64, 57, 57, 24), 1),
        ((128, 56, 56, 40), 1),
        ((128, 56, 56, 41), None),
        ((192, 56, 56, 24), None),
        ((64, 56, 24), None),
        ((64, 8, 8, 8, 24), None),
    ],
)
def test_how_many(shape, strips):
    assert strips_of(shape) == strips


def test_cut_and_join():
    x = np.arange(2 * 6 * 3 * 2).reshape(2, 6, 3, 2)
    expected = np.concatenate([x[:, :2], x[:, 2:4], x[:, 4:]])
    np.testing.assert_array_equal(cut(jnp.asarray(x), 3), expected)
    np.testing.assert_array_equal(join(jnp.asarray(expected), 3), x)


def test_what_belongs_to_images():
    values = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(for_strips(jnp.asarray(values), 2, 1), np.concatenate([values, values], 1))
    expected = np.stack([values[:, 0] + values[:, 1] + values[:, 2]], 1)
    np.testing.assert_array_equal(sum_of_strips(jnp.asarray(values), 3, 1), expected)


# kernel_size, strides, kernel_dilation, height
GEOMETRIES = [
    (3, 1, 1, 16),
    (3, 2, 1, 16),
    (3, 2, 1, 15),
    (5, 2, 1, 15),
    (4, 2, 1, 16),
    (7, 2, 1, 16),
    (3, 1, 2, 16),
    (1, 1, 1, 16),
]


@pytest.mark.parametrize("padding", ["SAME", "TORCH"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_convolution_of_strips(geometry, padding):
    size, strides, dilation, height = geometry
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, height, 6, 3), (size, size, 3, 4)))
    options = {"strides": strides, "kernel_dilation": dilation}
    whole = conv(x, kernel, padding=padding, **options)
    window = make_window(x.shape, kernel.shape[:2], strides, padding, dilation)
    strips = cut_with_margins(x, window, strips=4)
    y = conv(strips, kernel, padding=((0, 0), window.padding[1]), **options)
    np.testing.assert_allclose(join(y, 4), whole, rtol=1e-5, atol=1e-5)
