"""A dynamic convolution by a kernel of this package where a layer has a plan for one, and XLA's everywhere else."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax import Array, lax
from jaxtyping import Float32, Shaped

from dynet_jax.ops import xla
from dynet_jax.ops.maps import Map, to_array
from dynet_jax.ops.partition import is_partitioned
from dynet_jax.ops.strips import channel_sums

# (x, kernels, coefficients, fusion, options, with_sums) -> the result and its `channel_sums`, or None without a plan.
ByKernel: TypeAlias = Callable[..., tuple[Array, Any] | None]


def or_xla(by_kernel: ByKernel) -> tuple[Callable[..., Array], Callable[..., tuple[Array, Array]]]:
    """Returns `dynamic_conv` and `dynamic_conv_and_sums` of an implementation, with XLA's for layers without a plan."""

    def dynamic_conv(
        x: Shaped[Array, "batch *spatial c_in"],
        kernels: Shaped[Array, "group_size *kernel_size c_in_of_group c_out"],
        coefficients: Shaped[Array, "batch group_size #c_out"],
        fusion: str,
        options: dict[str, Any],
    ) -> Shaped[Array, "batch *output_spatial c_out"]:
        """Returns `dynet_jax.ops.dynamic_conv` of checked operands."""
        found = by_kernel(x, kernels, coefficients, fusion, options, with_sums=False)
        return xla.dynamic_conv(x, kernels, coefficients, fusion, options) if found is None else found[0]

    def dynamic_conv_and_sums(
        x: Shaped[Map, "batch *spatial c_in"],
        kernels: Shaped[Array, "group_size *kernel_size c_in_of_group c_out"],
        coefficients: Shaped[Array, "batch group_size #c_out"],
        fusion: str,
        options: dict[str, Any],
    ) -> tuple[Shaped[Array, "batch *output_spatial c_out"], Float32[Array, "2 batch c_out"]]:
        """Returns the same of a map that may be deferred, and `channel_sums` of the result for a BatchNorm."""
        found = by_kernel(x, kernels, coefficients, fusion, options, with_sums=True)
        if found is not None:
            return found
        y = xla.dynamic_conv(to_array(x), kernels, coefficients, fusion, options)
        return y, channel_sums(y)

    return dynamic_conv, dynamic_conv_and_sums


def may_have_kernel(x: Any, fusion: str, options: dict[str, Any]) -> bool:
    """Returns whether a kernel may serve this layer, whatever the hardware."""
    sizes_known = all(isinstance(size, int) for size in x.shape)  # and no symbols of `jax.export`
    if fusion == "feature" or not sizes_known or x.shape[0] < 2:
        return False
    return options["padding"] not in ("CIRCULAR", "REFLECT") and not is_partitioned(jax.tree.leaves(x)[0])


def has_default_precision(options: dict[str, Any]) -> bool:
    """Returns whether products have JAX's default precision, by the arguments of the layer and the configuration."""
    ambient = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]  (made at run time)
    return options["precision"] in (None, lax.Precision.DEFAULT) and ambient in (None, "default")
