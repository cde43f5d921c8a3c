"""Dynamic convolution with the kernels of this package."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dynet_jax.ops.maps import Map
from dynet_jax.ops.pallas import vary_alike
from dynet_jax.ops.planned import has_default_precision, may_have_kernel, or_xla
from dynet_jax.ops.strips import cut, for_strips, join, sum_of_strips
from dynet_jax.ops.tpu import dense, grouped
from dynet_jax.ops.tpu.dense_plan import DensePlan, fold_shape, make_dense_plan
from dynet_jax.ops.tpu.grouped_plan import GroupedPlan, make_grouped_plan
from dynet_jax.ops.tpu.pointwise import pointwise
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan, make_pointwise_plan
from dynet_jax.ops.window import make_window


def _dynamic_conv(x, kernels, coefficients, fusion, options, *, with_sums) -> tuple[Array, Any] | None:
    plan = _plan(x, kernels, fusion, options)
    if plan is None:
        return None
    result = _by_kernel(x, kernels, coefficients, plan, options, with_sums)
    return result if with_sums else (result, None)


dynamic_conv, dynamic_conv_and_sums = or_xla(_dynamic_conv)


def _by_kernel(x, kernels, coefficients, plan, options, with_sums) -> Any:
    with jax.named_scope("dynamic_conv_kernel_fusion"):
        if isinstance(plan, DensePlan):
            return dense_dynamic_conv(x, kernels, coefficients, plan, with_sums=with_sums)
        convolve = grouped_dynamic_conv if isinstance(plan, GroupedPlan) else pointwise_dynamic_conv
        return convolve(x, kernels, coefficients, plan, precision=options["precision"], with_sums=with_sums)


def _plan(x, kernels, fusion, options):
    """Returns the plan of the kernel for a layer; None if it has none, or XLA's form is asked for."""
    if not may_have_kernel(x, fusion, options) or x.dtype not in (jnp.float32, jnp.bfloat16):
        return None
    geometry = options["strides"], options["padding"], options["kernel_dilation"]
    window = make_window(x.shape, kernels.shape[1:-2], *geometry)
    layer = x, kernels, options["feature_group_count"], window
    plan = make_pointwise_plan(*layer) or make_grouped_plan(*layer)
    return make_dense_plan(*layer) if plan is None and has_default_precision(options) else plan


def grouped_dynamic_conv(
    x: Map,
    kernels: jax.Array,
    coefficients: jax.Array,
    plan: GroupedPlan,
    *,
    precision=None,
    with_sums: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Computes `dynet_jax.ops.dynamic_conv` for a layer that `make_grouped_plan` has a plan for.

    >>> from dynet_jax.ops.tpu.grouped_plan import make_grouped_plan
    >>> from dynet_jax.ops.window import make_window
    >>> x, kernels = jnp.ones((2, 4, 4, 6)), jnp.ones((5, 3, 3, 3, 6))
    >>> window = make_window(x.shape, (3, 3), 1, "SAME", 1)
    >>> plan = make_grouped_plan(x, kernels, groups=2, window=window, interpret=True)
    >>> grouped_dynamic_conv(x, kernels, jnp.ones((2, 5, 6)), plan).shape
    (2, 4, 4, 6)
    """
    with jax.named_scope("fusion"):
        coefficients = for_strips(coefficients, plan.strips)
        equation = "stc,nsc->tcn" if plan.channel_axis == 0 else "stc,nsc->tnc"
        weights = _fuse(equation, order_members(kernels, plan.members), coefficients, precision).astype(x.dtype)
    with jax.named_scope("convolution"):
        return _convolve(grouped.convolve, x, weights, plan, plan.axes, with_sums)


def pointwise_dynamic_conv(
    x: Map,
    kernels: jax.Array,
    coefficients: jax.Array,
    plan: PointwisePlan,
    *,
    precision=None,
    with_sums: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The same for a 1x1 layer that `make_pointwise_plan` has a plan for.

    >>> plan = PointwisePlan(rows=4, images=2, interpret=True)
    >>> pointwise_dynamic_conv(jnp.ones((2, 4, 4, 3)), jnp.ones((5, 1, 1, 3, 6)), jnp.ones((2, 5, 6)), plan).shape
    (2, 4, 4, 6)
    """
    with jax.named_scope("fusion"):
        coefficients = for_strips(coefficients, plan.strips)
        weights = _fuse("sic,nsc->icn", kernels[:, 0, 0], coefficients, precision).astype(x.dtype)
    with jax.named_scope("convolution"):
        return _convolve(pointwise, x, weights, plan, (1, 2, 3, 0), with_sums)


def _convolve(kernel, x, weights, plan, axes, with_sums):
    """Call a kernel whose maps have their axes in another order: [rows, columns, *tile]."""
    tile_axes = (0, 1, 2) if axes[-1] == 3 else (0, 2, 1)  # of [2, batch, channels]
    x, affine, activation = _opened(x, plan.strips)
    affine = None if affine is None else affine.transpose(tile_axes)
    x, weights, affine = vary_alike(x, weights, affine)
    y, sums = kernel(x.transpose(axes), weights, affine, activation, with_sums, plan)
    y = join(y.transpose(np.argsort(axes)), plan.strips)
    return (y, sum_of_strips(sums.transpose(tile_axes), plan.strips, 1)) if with_sums else y


def dense_dynamic_conv(
    x: Map,
    kernels: jax.Array,
    coefficients: jax.Array,
    plan: DensePlan,
    *,
    with_sums: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The same for a layer over all channels that `make_dense_plan` has a plan for.

    >>> from dynet_jax.ops.tpu.dense_plan import make_dense_plan
    >>> from dynet_jax.ops.window import Window
    >>> x, kernels = jnp.ones((2, 4, 4, 6)), jnp.ones((5, 3, 3, 6, 8))
    >>> window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    >>> plan = make_dense_plan(x, kernels, groups=1, window=window, interpret=True)
    >>> dense_dynamic_conv(x, kernels, jnp.ones((2, 5, 8)), plan).shape
    (2, 4, 4, 8)
    """
    group_size, kernel_rows, kernel_columns, c_in, c_out = kernels.shape
    bank = kernels.reshape(group_size, kernel_rows, kernel_columns * c_in, c_out)
    coefficients = _per_channel(coefficients, c_out).astype(kernels.dtype).astype(jnp.float32)
    x, affine, activation = _opened(x)
    folded = fold_shape(x.shape)
    with jax.named_scope("convolution"):  # fusion is a part of it
        if affine is not None:
            affine = jnp.tile(jnp.swapaxes(affine, 0, 1), (1, 1, folded[-1] // c_in))
        x, bank, coefficients, affine = vary_alike(x, bank, coefficients, affine)
        y, sums = dense.convolve(x.reshape(folded), bank, coefficients, affine, activation, with_sums, plan)
    y = y.reshape(x.shape[0], *plan.output_size, c_out)
    return (y, jnp.swapaxes(sums, 0, 1)) if with_sums else y


def _opened(x, strips: int = 1):
    return (cut(x, strips), None, None) if isinstance(x, Array) else x.opened(strips)


def _per_channel(coefficients, channels):
    return jnp.broadcast_to(coefficients, (*coefficients.shape[:2], channels))


def _fuse(equation, bank, coefficients, precision):
    coefficients = _per_channel(coefficients, bank.shape[-1]).astype(bank.dtype)
    accumulator = jnp.promote_types(bank.dtype, jnp.float32)
    return jnp.einsum(equation, bank, coefficients, precision=precision, preferred_element_type=accumulator)


def order_members(kernels: jax.Array, members: int) -> jax.Array:
    """[group_size, *kernel_size, members, channels] -> [group_size, taps x members, channels].

    Entry k of a tap and channel c, which is member o of its group, is the weight of member (o + k) mod members: what
    `roll_within_groups` by k puts there.
    """
    group_size, channels = kernels.shape[0], kernels.shape[-1]
    member = np.arange(channels) % members
    source = (member + np.arange(members)[:, None]) % members
    kernels = kernels.reshape(group_size, -1, members, channels)
    # A choice, not a gather: its gradient is a sum and no scatter.
    chosen = (jnp.where(source == number, kernels[:, :, number, None], 0) for number in range(members))
    return functools.reduce(operator.add, chosen).reshape(group_size, -1, channels)
