"""How one convolution is computed well on each backend.

XLA's own convolution is excellent where it maps to a vendor's kernel and poor elsewhere: on a CPU its grouped and
depthwise forms, and above all their gradients, are 10 to 100 times slower than the matrix products and shifted sums
below (`docs/performance.md` has the table). The same matrix products, `vmap`-ed over kernels as well as images, are
how a convolution with one kernel per image is computed.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Shaped

from dynet_jax.ops.backend import target_backend
from dynet_jax.ops.maps import FeatureMap, Map, Operand
from dynet_jax.ops.partition import over_images
from dynet_jax.ops.window import Padding, Window, make_window, pad_explicitly

# Up to so many positions of its result, XLA's dense convolution is slow on a CPU: at 2x2 up to 30 times slower than a
# matrix product.
FEW_POSITIONS = 4
# About one core's share of the cache of today's CPUs; from 256 KiB to 4 MiB the times hardly differ.
CACHE_BYTES = 2**20


def conv(
    x: Shaped[Map, "batch *spatial c_in"],
    kernel: Shaped[Operand, "*kernel_size c_in_of_group c_out"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision=None,
) -> Shaped[Map, "batch *output_spatial c_out"]:
    """A plain convolution: one kernel, shared by all examples.

    Args:
      x: [batch, *spatial, C_in], with 1, 2 or 3 spatial dimensions.
      kernel: [*kernel_size, C_in / feature_group_count, C_out].
      strides, kernel_dilation: an int, or one per spatial dimension.
      padding: what `flax.linen.Conv` takes: 'SAME', 'VALID', 'CIRCULAR', ..., an int, or (low, high) pairs; or 'TORCH',
        the same on both sides as in PyTorch's networks. SAME differs from it where a stride leaves a remainder.
      feature_group_count: groups, C_in for a depthwise convolution.
      precision: as in `jax.lax.dot_general`.
    Returns:
      [batch, *output_spatial, C_out], in x's dtype.
    Raises:
      ValueError: if shapes do not fit one another.

    >>> import jax.numpy as jnp
    >>> conv(jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 1, 6)), strides=2, feature_group_count=6).shape
    (2, 4, 4, 6)
    """
    check_channels(x, kernel.shape, feature_group_count)
    if isinstance(x, FeatureMap):
        options = dict(strides=strides, padding=padding, kernel_dilation=kernel_dilation)
        return x.conv(kernel, options | dict(feature_group_count=feature_group_count, precision=precision))
    window = make_window(x.shape, kernel.shape[:-2], strides, padding, kernel_dilation)
    x, window = pad_explicitly(jnp.asarray(x), window)
    positions = window.positions(x.shape[1:-1])
    few = positions is not None and positions <= FEW_POSITIONS
    # Only here does the backend matter: on a CPU, XLA's grouped convolution and its gradient are the slow ones.
    if target_backend() == "cpu" and (feature_group_count > 1 or window.is_pointwise or few):
        return _over_examples(_matrix_form(window, feature_group_count, precision), x, kernel, window, shared=True)

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window.strides,
            window.padding,
            rhs_dilation=window.kernel_dilation,
            dimension_numbers=_dimension_numbers(len(window.kernel_size)),
            feature_group_count=feature_group_count,
            precision=precision,
        )

    # The partitioner splits a dense convolution well; the gradient of a grouped one, not.
    return over_images(convolve, (0, None), 0)(x, kernel) if feature_group_count > 1 else convolve(x, kernel)


def conv_per_example(
    x: Shaped[Operand, "batch *spatial c_in"],
    kernels: Shaped[Operand, "batch *kernel_size c_in_of_group c_out"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    precision=None,
) -> Shaped[Array, "batch *output_spatial c_out"]:
    """A convolution in which every example has a kernel of its own.

    It is the `vmap` over examples of matrix products, not of `lax.conv_general_dilated`: batching that primitive over
    both operands folds the batch into `feature_group_count`, which is slow on a CPU and, when the batch is sharded
    under an automatic partitioner, gathers it on every device or returns wrong numbers
    (`tests/ops/test_partitioning.py` keeps watch).

    Args:
      x: [batch, *spatial, C_in].
      kernels: [batch, *kernel_size, C_in / feature_group_count, C_out].
      others: as in `conv`.
    Returns:
      [batch, *output_spatial, C_out], in x's dtype.

    >>> import jax.numpy as jnp
    >>> conv_per_example(jnp.ones((2, 8, 8, 3)), jnp.ones((2, 3, 3, 3, 5))).shape
    (2, 8, 8, 5)
    """
    check_channels(x, kernels.shape[1:], feature_group_count)
    if kernels.shape[0] != x.shape[0]:
        raise ValueError(f"x has {x.shape[0]} examples but kernels has {kernels.shape[0]}")
    x, window = pad_explicitly(x, make_window(x.shape, kernels.shape[1:-2], strides, padding, kernel_dilation))
    return _over_examples(_matrix_form(window, feature_group_count, precision), x, kernels, window, shared=False)


def check_channels(x: Map, kernel_shape: Sequence[int], feature_group_count: int) -> None:
    """Raises ValueError unless a kernel of this shape, [*kernel_size, C_in / groups, C_out], fits x."""
    if x.ndim != len(kernel_shape):
        raise ValueError(
            f"x of shape {x.shape} has {x.ndim - 2} spatial dimensions, the kernel of shape {tuple(kernel_shape)} "
            f"has {len(kernel_shape) - 2}; x must be [batch, *spatial, channels]"
        )
    c_in, c_out = x.shape[-1], kernel_shape[-1]
    if c_in != kernel_shape[-2] * feature_group_count or c_out % feature_group_count:
        raise ValueError(
            f"channels do not fit: x has {c_in}, the kernel expects {kernel_shape[-2]} x feature_group_count="
            f"{feature_group_count} and gives {c_out}, which must be a multiple of feature_group_count"
        )


def _matrix_form(window: Window, groups: int, precision):
    """The convolution of one example, [*spatial, C_in] x [*kernel_size, C_in / groups, C_out]."""

    def one_example(x, kernel):
        if groups == 1:
            return _dense(x, kernel, window, precision)
        if groups == x.shape[-1]:
            return _depthwise(x, kernel, window)
        return _grouped(x, kernel, window, groups, precision)

    return one_example


def _over_examples(one_example, x, kernels, window, shared):
    """`vmap` of `one_example` over the batch; on a CPU in chunks whose patches stay in the cache.

    The chunks make large layers 2 to 5 times faster there, and recomputing their patches in the backward pass, instead
    of keeping prod(kernel_size) copies of x, does the same for the gradient.
    """

    def run(x, kernels):
        any_size = not all(isinstance(size, int) for size in x.shape)  # symbols of `jax.export`
        if any_size or window.is_pointwise or target_backend() != "cpu" or _chunk(x, window) >= x.shape[0]:
            return jax.vmap(one_example, in_axes=(0, None if shared else 0))(x, kernels)
        chunk = _chunk(x, window)
        if shared:
            return lax.map(jax.checkpoint(lambda image: one_example(image, kernels)), x, batch_size=chunk)
        return lax.map(jax.checkpoint(lambda pair: one_example(*pair)), (x, kernels), batch_size=chunk)

    return over_images(run, (0, None if shared else 0), 0)(x, kernels)


def _chunk(x, window):
    """How many examples' `_taps` stay in the cache, at least one."""
    return max(1, CACHE_BYTES // _patch_bytes(x, window))


def _patch_bytes(x, window):
    """What `_taps` of one example takes."""
    views = math.prod(window.output_shape(x.shape[1:-1])) * math.prod(window.kernel_size)
    return max(1, views * x.shape[-1] * x.dtype.itemsize)


def _taps(x: Array, window: Window) -> list[Array]:
    """What each position of the kernel sees: prod(kernel_size) views of x, [*output_spatial, channels] each."""
    output_shape = window.output_shape(x.shape[:-1])
    x = lax.pad(x, jnp.zeros((), x.dtype), [(*pad, 0) for pad in window.padding] + [(0, 0, 0)])
    views = []
    for position in itertools.product(*map(range, window.kernel_size)):
        start = [p * d for p, d in zip(position, window.kernel_dilation)]
        limit = [a + (n - 1) * s + 1 for a, n, s in zip(start, output_shape, window.strides)]
        views.append(lax.slice(x, (*start, 0), (*limit, x.shape[-1]), (*window.strides, 1)))
    return views


def _dense(x, kernel, window, precision):
    # One product over taps and channels at once. Summing a product per tap saves memory, but its gradient is 1.5 to
    # 2 times slower.
    patches = jnp.concatenate(_taps(x, window), axis=-1)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    y = jnp.einsum("...i,io->...o", patches, kernel, precision=precision, preferred_element_type=accumulator_dtype(x))
    return y.astype(x.dtype)


def _grouped(x, kernel, window, groups, precision):
    # The group is the fastest axis of every operand (channels as [C / groups, groups]): a CPU then works on vectors
    # of groups, where [groups, C / groups] would leave it 6 channels at a time.
    x = jnp.swapaxes(x.reshape(*x.shape[:-1], groups, -1), -1, -2)
    inputs = x.shape[-2]
    taps = [tap.reshape(*tap.shape[:-1], inputs, groups) for tap in _taps(x.reshape(*x.shape[:-2], -1), window)]
    kernel = jnp.swapaxes(kernel.reshape(len(taps), inputs, groups, -1), -1, -2)
    y = jnp.einsum(
        "...tig,tiog->...og",
        jnp.stack(taps, axis=-3),
        kernel,
        precision=precision,
        preferred_element_type=accumulator_dtype(x),
    )
    return jnp.swapaxes(y, -1, -2).reshape(*y.shape[:-2], -1).astype(x.dtype)


def _depthwise(x, kernel, window):
    # Shifted multiply-adds fuse into one pass over memory; a product with one channel per group would not.
    multiplier = kernel.shape[-1] // x.shape[-1]
    if multiplier > 1:
        x = jnp.repeat(x, multiplier, axis=-1)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(accumulator_dtype(x))
    products = (tap * weight for tap, weight in zip(_taps(x, window), weights))
    return functools.reduce(operator.add, products).astype(x.dtype)


def accumulator_dtype(x):
    """Half-precision inputs are summed in float32, as the matrix units of GPUs and TPUs do."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _dimension_numbers(rank):
    spatial = "DHW"[3 - rank :]
    return (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
