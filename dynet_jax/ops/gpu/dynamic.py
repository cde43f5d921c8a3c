"""Dynamic convolution with the kernels of this package."""

import math
from typing import Any

import jax
from jax import Array

from dynet_jax.ops.fusion import fuse_kernels
from dynet_jax.ops.gpu import grouped, pointwise
from dynet_jax.ops.gpu.plans import GroupedPlan, PointwisePlan, make_plan
from dynet_jax.ops.maps import Map
from dynet_jax.ops.pallas import vary_alike
from dynet_jax.ops.planned import has_default_precision, may_have_kernel, or_xla
from dynet_jax.ops.window import make_window


def _dynamic_conv(x, kernels, coefficients, fusion, options, *, with_sums) -> tuple[Array, Any] | None:
    plan = _plan(x, kernels, fusion, options)
    return None if plan is None else by_kernel(x, kernels, coefficients, plan, with_sums=with_sums)


dynamic_conv, dynamic_conv_and_sums = or_xla(_dynamic_conv)


def _plan(x, kernels, fusion, options) -> GroupedPlan | PointwisePlan | None:
    """Returns the plan of the kernel for a layer; None if it has none, or XLA's form is asked for."""
    if not may_have_kernel(x, fusion, options) or not has_default_precision(options):
        return None
    geometry = options["strides"], options["padding"], options["kernel_dilation"]
    window = make_window(x.shape, kernels.shape[1:-2], *geometry)
    return make_plan(x, kernels, options["feature_group_count"], window)


def by_kernel(
    x: Map, kernels: Array, coefficients: Array, plan: GroupedPlan | PointwisePlan, *, with_sums: bool
) -> tuple[Array, Any]:
    """Returns what `dynet_jax.ops.dynamic_conv` computes for a layer with a plan, and its `channel_sums` or None.

    >>> import jax.numpy as jnp
    >>> operands = jnp.ones((2, 4, 4, 3)), jnp.ones((5, 1, 1, 3, 6)), jnp.ones((2, 5, 6))
    >>> by_kernel(*operands, PointwisePlan(interpret=True), with_sums=False)[0].shape
    (2, 4, 4, 6)
    """
    x, affine, activation = _opened(x)
    with jax.named_scope("dynamic_conv_kernel_fusion"):
        with jax.named_scope("fusion"):
            weights = fuse_kernels(kernels, coefficients).astype(x.dtype)
        with jax.named_scope("convolution"):
            batch, *size, c_in = x.shape
            c_out, taps = weights.shape[-1], math.prod(kernels.shape[1:-2])
            if isinstance(plan, PointwisePlan):
                kernel, shape = pointwise.convolve, (batch, c_in, c_out)
            else:
                kernel, shape, size = grouped.convolve, (batch, taps, plan.members, c_out), plan.output_size
            operands = vary_alike(x.reshape(batch, -1, c_in), weights.reshape(shape), affine)
            y, sums = kernel(*operands, activation, with_sums, plan)
    return y.reshape(batch, *size, c_out), sums


def _opened(x):
    return (x, None, None) if isinstance(x, Array) else x.opened(1)
