"""The columns of a window side by side (im2col), so that a row of the window is one matrix product, and the transpose.

Patches are [rows / stride, stride, columns, kernel columns x C_in]: the next row of the window is another address.
"""

import itertools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from dynet_jax.ops.normalizing import normalize_block, normalize_block_gradients
from dynet_jax.ops.tpu.dense_plan import DensePlan, fold_of


def im2col(x, affine, n, image, patches, plan: DensePlan, activation):
    """Writes image n of x, normalised, into the middle of `image`, whose border is zero, and from there its patches."""
    for channels, inside in _inside(image, plan):
        image[inside] = normalize_block(x[pl.ds(n, 1), :, :, channels], _affine_of(affine, n, channels), activation)
    for view, lanes in _window_columns(image, patches, plan):
        patches[lanes] = image[view].reshape(*patches.shape[:3], image.shape[-1])


def col2im(dpatches, image, x, affine, n, dx, daffine, plan: DensePlan, activation):
    """Writes the gradients of x and `affine` for those of the patches; `image` is zero afterwards."""
    _, rows, _, lanes = image.shape
    image[...] = jnp.zeros_like(image)
    for view, own in _window_columns(image, dpatches, plan):
        image[view] += dpatches[own].reshape(1, rows, -1, lanes)
    for channels, inside in _inside(image, plan):
        at, gradient = (pl.ds(n, 1), slice(None), slice(None), channels), image[inside]
        if affine is not None:
            block, own_affine = x[at], _affine_of(affine, n, channels)
            gradient, *terms = normalize_block_gradients(gradient, block, own_affine, activation)
            for i, term in enumerate(terms):
                daffine[n, i, channels] = jnp.sum(term, axis=(0, 1, 2))
        dx[at] = gradient.astype(dx.dtype)
    image[...] = jnp.zeros_like(image)


def unfold_columns(columns, channels, first=0):
    """Yields (lanes, columns) of an image with several columns side by side in the lanes: one of them at a time."""
    fold = fold_of(columns, channels)
    for k in range(fold):
        yield pl.ds(k * channels, channels), _strided(first + k, columns // fold, fold)


def _window_columns(image, patches, plan: DensePlan):
    """Yields what the output's columns see of the padded image in a column of the window, and its lanes in patches."""
    tiles, _, _, lanes = image.shape
    (_, stride), (_, dilation), columns = plan.window.strides, plan.window.kernel_dilation, patches.shape[2]
    for j, tile in itertools.product(range(plan.window.kernel_size[1]), range(tiles)):
        seen = _strided(dilation * j, columns, stride)
        yield (pl.ds(tile, 1), slice(None), seen), (..., pl.ds((j * tiles + tile) * lanes, lanes))


def _inside(image, plan: DensePlan):
    """Yields channels of x as it is stored, and where they lie in the padded image."""
    tiles, _, _, lanes = image.shape
    (height, width), ((top, _), (left, _)) = plan.size, plan.window.padding
    rows = pl.ds(top, height)
    if tiles > 1:
        for tile in range(tiles):
            yield pl.ds(tile * lanes, lanes), (pl.ds(tile, 1), rows, pl.ds(left, width))
    else:
        for channels, columns in unfold_columns(width, lanes, left):
            yield channels, (pl.ds(0, 1), rows, columns)


def _affine_of(affine, n, channels):
    """Returns [2, channels] of an image, or None."""
    return None if affine is None else affine[n, :, channels]


def _strided(start, size, stride):
    return pl.ds(start, size, stride=stride) if stride > 1 else pl.ds(start, size)
