"""Dynamic convolution with the kernels of this package."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dynet_jax.ops.fusion import fuse_kernels
from dynet_jax.ops.gpu import dense, grouped, pointwise
from dynet_jax.ops.gpu.plans import DensePlan, GroupedPlan, Plan, PointwisePlan, make_plan
from dynet_jax.ops.maps import Map
from dynet_jax.ops.pallas import vary_alike
from dynet_jax.ops.planned import has_default_precision, may_have_kernel, or_xla
from dynet_jax.ops.window import make_window


def _dynamic_conv(x, kernels, coefficients, fusion, options, *, with_sums) -> tuple[Array, Any] | None:
    plan = _plan(x, kernels, fusion, options)
    return None if plan is None else by_kernel(x, kernels, coefficients, plan, with_sums=with_sums)


dynamic_conv, dynamic_conv_and_sums = or_xla(_dynamic_conv)


def _plan(x, kernels, fusion, options) -> Plan | None:
    """Returns the plan of the kernel for a layer; None if it has none, or XLA's form is asked for."""
    if not may_have_kernel(x, fusion, options) or not has_default_precision(options):
        return None
    geometry = options["strides"], options["padding"], options["kernel_dilation"]
    window = make_window(x.shape, kernels.shape[1:-2], *geometry)
    return make_plan(x, kernels, options["feature_group_count"], window)


def by_kernel(x: Map, kernels: Array, coefficients: Array, plan: Plan, *, with_sums: bool) -> tuple[Array, Any]:
    """Returns what `dynet_jax.ops.dynamic_conv` computes for a layer with a plan, and its `channel_sums` or None.

    >>> import jax.numpy as jnp
    >>> operands = jnp.ones((2, 4, 4, 3)), jnp.ones((5, 1, 1, 3, 6)), jnp.ones((2, 5, 6))
    >>> by_kernel(*operands, PointwisePlan(interpret=True), with_sums=False)[0].shape
    (2, 4, 4, 6)
    """
    x, affine, activation = _opened(x)
    batch, *size, c_in = x.shape
    if not isinstance(plan, PointwisePlan):
        size = plan.geometry.output_size
    with jax.named_scope("dynamic_conv_kernel_fusion"):
        if isinstance(plan, DensePlan):
            convolve, weights = dense.convolve, _bank(kernels, coefficients)
        else:
            convolve, weights = _fused(kernels, coefficients, x.dtype, plan)
        with jax.named_scope("convolution"):
            operands = vary_alike(x.reshape(batch, -1, c_in), *weights, affine)
            y, sums = convolve(*operands, activation, with_sums, plan)
    return y.reshape(batch, *size, kernels.shape[-1]), sums


def _bank(kernels, coefficients) -> tuple[Array, Array]:
    """Returns what the kernel fuses: a matrix for each tap and kernel, and coefficients of each channel."""
    *_, c_in, c_out = kernels.shape
    coefficients = jnp.broadcast_to(coefficients, (*coefficients.shape[:2], c_out))
    rounded = coefficients.astype(kernels.dtype).astype(jnp.float32)  # as fusion by XLA has them
    return kernels.reshape(kernels.shape[0], -1, c_in, c_out), rounded


def _fused(kernels, coefficients, dtype, plan: GroupedPlan | PointwisePlan) -> tuple[Any, tuple[Array]]:
    """Returns the kernel's function, and the weights of every image in its shape."""
    with jax.named_scope("fusion"):
        weights = fuse_kernels(kernels, coefficients).astype(dtype)
    *_, members, c_out = kernels.shape
    if isinstance(plan, PointwisePlan):
        return pointwise.convolve, (weights.reshape(-1, members, c_out),)
    return grouped.convolve, (weights.reshape(len(weights), -1, members, c_out),)


def _opened(x):
    return (x, None, None) if isinstance(x, Array) else x.opened(1)
