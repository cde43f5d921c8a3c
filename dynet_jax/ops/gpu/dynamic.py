"""Dynamic convolution with the kernels of this package."""

import math
from typing import Any

import jax
from jax import Array, lax
from jaxtyping import Float32, Shaped

from dynet_jax.ops import xla
from dynet_jax.ops.fusion import fuse_kernels
from dynet_jax.ops.gpu import grouped, pointwise
from dynet_jax.ops.gpu.plans import GroupedPlan, PointwisePlan, make_plan
from dynet_jax.ops.maps import Map, to_array
from dynet_jax.ops.pallas import vary_alike
from dynet_jax.ops.partition import is_partitioned
from dynet_jax.ops.strips import channel_sums
from dynet_jax.ops.window import make_window


def dynamic_conv(
    x: Shaped[Array, "batch *spatial c_in"],
    kernels: Shaped[Array, "group_size *kernel_size c_in_of_group c_out"],
    coefficients: Shaped[Array, "batch group_size #c_out"],
    fusion: str,
    options: dict[str, Any],
) -> Shaped[Array, "batch *output_spatial c_out"]:
    """Returns `dynet_jax.ops.dynamic_conv` of checked operands: by a kernel if the layer has one, else XLA's."""
    plan = _plan(x, kernels, fusion, options)
    if plan is None:
        return xla.dynamic_conv(x, kernels, coefficients, fusion, options)
    y, _ = by_kernel(x, kernels, coefficients, plan, with_sums=False)
    return y


def dynamic_conv_and_sums(
    x: Shaped[Map, "batch *spatial c_in"],
    kernels: Shaped[Array, "group_size *kernel_size c_in_of_group c_out"],
    coefficients: Shaped[Array, "batch group_size #c_out"],
    fusion: str,
    options: dict[str, Any],
) -> tuple[Shaped[Array, "batch *output_spatial c_out"], Float32[Array, "2 batch c_out"]]:
    """Returns the same of a map that may be deferred, and `channel_sums` of the result for a BatchNorm."""
    plan = _plan(x, kernels, fusion, options)
    if plan is None:
        y = xla.dynamic_conv(to_array(x), kernels, coefficients, fusion, options)
        return y, channel_sums(y)
    return by_kernel(x, kernels, coefficients, plan, with_sums=True)


def _plan(x, kernels, fusion, options) -> GroupedPlan | PointwisePlan | None:
    """Returns the plan of the kernel for a layer; None if it has none, or XLA's form is asked for."""
    sizes_known = all(isinstance(size, int) for size in x.shape)  # and no symbols of `jax.export`
    if fusion == "feature" or not sizes_known or x.shape[0] < 2 or is_partitioned(jax.tree.leaves(x)[0]):
        return None
    ambient = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]  (made at run time)
    if options["precision"] not in (None, lax.Precision.DEFAULT) or ambient not in (None, "default"):
        return None
    if options["padding"] in ("CIRCULAR", "REFLECT"):
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
