"""Dynamic convolution in the forms that XLA compiles for any hardware, and the rule that chooses between them."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from dynet_jax.ops.backend import target_backend
from dynet_jax.ops.conv import conv, conv_per_example
from dynet_jax.ops.fusion import fuse_kernels, weighted_features
from dynet_jax.ops.maps import Operand, to_array
from dynet_jax.ops.window import make_window


def serves() -> bool:
    """Returns True: XLA compiles for any hardware."""
    return True


def feature_map(x: Array) -> Array:
    """Returns the array: XLA merges normalisation and activation with what is around them by itself."""
    return x


def dynamic_conv(
    x: Shaped[Operand, "batch *spatial c_in"],
    kernels: Shaped[Operand, "group_size *kernel_size c_in_of_group c_out"],
    coefficients: Shaped[Operand, "batch group_size #c_out"],
    fusion: str,
    options: dict[str, Any],
) -> Shaped[Array, "batch *output_spatial c_out"]:
    """Returns `dynet_jax.ops.dynamic_conv` of checked operands, by the form that `fusion` names or `choose_fusion`."""
    if fusion == "auto":
        fusion = choose_fusion(
            kernels.shape,
            batch=x.shape[0],
            backend=target_backend(),
            positions=_positions(x, kernels, options),
            feature_group_count=options["feature_group_count"],
        )
    with jax.named_scope(f"dynamic_conv_{fusion}_fusion"):
        if fusion == "feature":
            return _fuse_features(x, kernels, coefficients, options)
        with jax.named_scope("fusion"):
            dynamic_kernels = fuse_kernels(kernels, coefficients, precision=options["precision"]).astype(x.dtype)
        with jax.named_scope("convolution"):
            if x.shape[0] == 1:  # one image has one kernel, and a plain convolution is the best way to use it
                return to_array(conv(x, dynamic_kernels[0], **options))
            return conv_per_example(x, dynamic_kernels, **options)


def choose_fusion(
    kernels_shape: Sequence[int],
    *,
    batch: int,
    backend: str,
    positions: int | None = None,
    feature_group_count: int = 1,
) -> Literal["kernel", "feature"]:
    """The rule behind `fusion='auto'`, for layers that have no kernel of their own.

    - one image: fuse kernels; the convolution then costs what a static one costs.
    - depthwise layers: fuse kernels. They are shifted multiply-adds for static kernels too, and fusing feature maps
      would write g_t of them.
    - maps so small that the kernel of an image, used at few positions, costs more to fuse than g_t results at each of
      them: fuse feature maps. On a CPU these are maps of up to 4 positions, and up to 16 where one kernel spans k x k
      and all channels (measured with `benchmarks/dynamic_conv.py`, see `docs/performance.md`); on a TPU up to 4, by
      reasoning. On a GPU, pointwise layers with more channels in than g_t x positions.
    - larger maps on a CPU: fuse kernels (measured, too).
    - larger maps on TPU and GPU: fuse kernels for pointwise layers, which are batched matrix products; fuse feature
      maps for other kernels, whose per-image forms move several times the bytes there, by the compilers' count.

    GPUs have not been measured. What decides there are the bytes that a layer and its gradients move, as XLA's GPU
    compiler counts them (`docs/measured/gpu`, `docs/gpu.md`).

    positions: of an output map, height x width; None where it is not known, as in a program for any size.
    `dynamic_conv` asks for the hardware it is traced for (`dynet_jax.ops.backend`).

    >>> choose_fusion((6, 3, 3, 6, 96), batch=64, positions=49, backend="tpu")
    'feature'
    >>> choose_fusion((6, 3, 3, 6, 96), batch=64, positions=49, backend="cpu")
    'kernel'
    """
    pointwise = all(size == 1 for size in kernels_shape[1:-2])
    depthwise = kernels_shape[-2] == 1
    if batch == 1 or depthwise:
        return "kernel"
    dense = not pointwise and feature_group_count == 1
    few = 16 if dense and backend == "cpu" else 4
    if backend == "gpu" and pointwise:  # an output channel has c_in numbers of a kernel, g_t at each position of maps
        few = (kernels_shape[-2] - 1) // kernels_shape[0]
    if positions is not None and positions <= few:
        return "feature"
    return "kernel" if backend == "cpu" or pointwise else "feature"


def _positions(x, kernels, options) -> int | None:
    """Returns those of the layer's result; None if sizes are symbols of `jax.export`."""
    geometry = options["strides"], options["padding"], options["kernel_dilation"]
    return make_window(x.shape, kernels.shape[1:-2], *geometry).positions(x.shape[1:-1])


def _fuse_features(x, kernels, coefficients, options):
    """Eq. 2: all g_t kernels side by side as one convolution, then what they give is weighted and summed."""
    groups, (group_size, *kernel_size, c_in, c_out) = options["feature_group_count"], kernels.shape
    with jax.named_scope("convolution"):
        # A group of channels gives those of its group by every kernel, so they lie together.
        bank = kernels.reshape(group_size, *kernel_size, c_in, groups, c_out // groups)
        bank = jnp.moveaxis(bank, 0, -2).reshape(*kernel_size, c_in, group_size * c_out)
        features = to_array(conv(x, bank.astype(x.dtype), **options))
        features = features.reshape(*features.shape[:-1], groups, group_size, c_out // groups)
    with jax.named_scope("fusion"):
        shared = coefficients.shape[-1] == 1
        weights = coefficients.reshape(-1, group_size, 1 if shared else groups, 1 if shared else c_out // groups)
        return weighted_features(features, jnp.swapaxes(weights, 1, 2), options["precision"]).astype(x.dtype)
