"""The forms of a dynamic convolution that are compared, by the names of `--forms`.

Forms that are not the library's are included because they may suit a GPU, which has a library of convolutions and fast
matrix products, and does not need a CPU's order of axes.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from dynet_jax.ops import conv, dynamic_conv, fuse_kernels
from dynet_jax.ops.backend import target_backend
from dynet_jax.ops.window import make_window, pad_explicitly

STATIC = ("static", "static_xla")


def xla_conv(x, kernel, *, strides=1, padding="SAME", kernel_dilation=1, **options):
    options |= {"rhs_dilation": (kernel_dilation,) * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, (strides,) * 2, padding, **options)


# ---- With a kernel per image: the arguments of `dynet_jax.ops.conv_per_example`


def vmapped_conv(x, kernels, **options):
    """Returns the form that the library avoids; JAX turns it into one wide convolution with a group per image."""
    return jax.vmap(lambda image, kernel: xla_conv(image[None], kernel, **options)[0])(x, kernels)


def im2col(x, kernels, *, feature_group_count=1, precision=None, **options):
    """Returns one batched matrix product of the shifted views, with one product per image and group."""
    views = jnp.stack([_grouped(view, feature_group_count) for view in _views(x, kernels, **options)], axis=4)
    patches = views.reshape(*views.shape[:4], -1)
    y = _product(patches, _by_group(kernels, feature_group_count), precision)
    return y.reshape(*y.shape[:3], -1).astype(x.dtype)


def taps(x, kernels, *, feature_group_count=1, precision=None, **options):
    """Returns a sum of one batched product per kernel position; x is read once for each, and no patches are stored."""
    views = _views(x, kernels, **options)
    matrices = jnp.split(_by_group(kernels, feature_group_count), len(views), axis=2)
    y = sum(_product(_grouped(view, feature_group_count), m, precision) for view, m in zip(views, matrices))
    return y.reshape(*y.shape[:3], -1).astype(x.dtype)


def block_diagonal(x, kernels, *, feature_group_count=1, **options):
    """Returns groups as one dense kernel, nearly all zeros: more arithmetic, but products that fill a matrix unit."""
    batch, *size, inputs, c_out = kernels.shape
    blocks = kernels.reshape(batch, *size, inputs, feature_group_count, -1)
    dense = jnp.einsum("byxigo,hg->byxhigo", blocks, jnp.eye(feature_group_count, dtype=kernels.dtype))
    return im2col(x, dense.reshape(batch, *size, inputs * feature_group_count, c_out), **options)


def _views(x, kernels, strides=1, padding="SAME", kernel_dilation=1) -> list[jax.Array]:
    """Returns the shifted view for each position of the kernel, [batch, height, width, C_in] each."""
    x, window = pad_explicitly(x, make_window(x.shape, kernels.shape[1:3], strides, padding, kernel_dilation))
    height, width = window.output_shape(x.shape[1:3])
    x = jnp.pad(x, [(0, 0), *window.padding, (0, 0)])
    (down, right), (row_step, column_step) = window.strides, window.kernel_dilation
    starts = itertools.product(range(window.kernel_size[0]), range(window.kernel_size[1]))
    return [x[:, i * row_step :: down, j * column_step :: right][:, :height, :width] for i, j in starts]


def _grouped(x, groups):
    return x.reshape(*x.shape[:-1], groups, -1)


def _by_group(kernels, groups):
    """Returns a matrix per image and group, [batch, groups, inputs, -1], for [batch, height, width, inputs, C_out]."""
    batch, height, width, inputs, _ = kernels.shape
    matrices = kernels.reshape(batch, height * width * inputs, groups, -1)
    return jnp.swapaxes(matrices, 1, 2)


def _product(x, matrices, precision):
    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    if target_backend() == "cpu":  # whose runtime lacks some products of bfloat16 into float32
        x, matrices = x.astype(accumulator), matrices.astype(accumulator)
    return jnp.einsum("bhwgi,bgio->bhwgo", x, matrices, precision=precision, preferred_element_type=accumulator)


# ---- With the bank: the arguments of `dynet_jax.ops.dynamic_conv`


def feature_conv(x, kernels, coefficients, *, feature_group_count=1, **options):
    """Returns Eq. 2 by one plain convolution with g_t x C_out output channels, and a contraction of its maps."""
    group_size, *size, inputs, c_out = kernels.shape
    # A group's channels lie together: within a group, first the kernels of the bank, then the outputs.
    wide = jnp.moveaxis(kernels.reshape(group_size, *size, inputs, feature_group_count, -1), 0, -2)
    maps = xla_conv(x, wide.reshape(*size, inputs, -1), feature_group_count=feature_group_count, **options)
    maps = maps.reshape(*maps.shape[:3], feature_group_count, group_size, -1)
    weights = coefficients.astype(x.dtype).reshape(x.shape[0], group_size, feature_group_count, -1)
    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.einsum("bhwgko,bkgo->bhwgo", maps, weights, preferred_element_type=accumulator)
    return y.reshape(*y.shape[:3], c_out).astype(x.dtype)


PER_IMAGE = {"vmapped_conv": vmapped_conv, "im2col": im2col, "taps": taps, "block_diagonal": block_diagonal}
LIBRARY = ("feature", "kernel", "auto")
FORMS = (*STATIC, "vmapped_conv", *LIBRARY, "im2col", "taps", "block_diagonal", "feature_conv")
USUAL_FORMS = (*STATIC, "vmapped_conv", *LIBRARY)


def form_function(form: str) -> Callable:
    """Returns (x, kernel, **options) -> y for static forms, (x, kernels, coefficients, **options) -> y for others."""
    if form in STATIC:
        return conv if form == "static" else xla_conv
    if form == "feature_conv":
        return feature_conv
    if form in PER_IMAGE:
        return functools.partial(_by_fused_kernels, PER_IMAGE[form])
    return functools.partial(dynamic_conv, fusion=form)


def _by_fused_kernels(per_image, x, kernels, coefficients, **options):
    return per_image(x, fuse_kernels(kernels, coefficients).astype(x.dtype), **options)


def is_distinct(form: str, kernel_size: int, groups: int, c_in: int) -> bool:
    """Returns whether the form differs from the previous ones for such a layer."""
    if form == "taps":
        return kernel_size > 1  # one position: the product of im2col
    if form == "block_diagonal":
        return 1 < groups < c_in  # without groups im2col; a depthwise layer would be nearly all zeros
    return True
