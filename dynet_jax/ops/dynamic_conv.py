"""Dynamic convolution (DyNet, section 3.2): g_t fixed kernels per output channel, fused into one for each image."""

import os
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dynet_jax.ops.backend import target_backend, target_device_kind
from dynet_jax.ops.conv import check_channels, conv, conv_per_example
from dynet_jax.ops.normalized import Normalized, as_array, channel_sums
from dynet_jax.ops.pallas.dynamic import dense_dynamic_conv, grouped_dynamic_conv, pointwise_dynamic_conv
from dynet_jax.ops.pallas.plan import DensePlan, Plan, make_dense_plan, make_plan, make_pointwise_plan
from dynet_jax.ops.weighted_sum import weighted_features, weighted_kernels
from dynet_jax.ops.window import Padding, make_window

Fusion = Literal["auto", "kernel", "feature"]
FUSIONS = ("auto", "kernel", "feature")
LITTLE_FAST_MEMORY = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")  # 16 MiB: blocks are made for 64 or more


def fuse_kernels(kernels: jax.Array, coefficients: jax.Array, *, precision=None) -> jax.Array:
    r"""Eq. 1: the dynamic kernel of every example, $\tilde w_t = \sum_{i=1}^{g_t} \eta_t^i w_t^i$.

    Args:
      kernels: the bank, [group_size, *kernel_size, C_in / groups, C_out]: a stack of ordinary kernels.
      coefficients: [batch, group_size, C_out], or [batch, group_size, 1] when all output channels share them (one
        matrix product then fuses the whole bank, as in CondConv and DY-CNN).
      precision: as in `jax.lax.dot_general`.
    Returns:
      [batch, *kernel_size, C_in / groups, C_out], in the bank's dtype.
    Raises:
      ValueError: if the shapes do not fit one another.

    >>> import jax.numpy as jnp
    >>> fuse_kernels(jnp.ones((6, 3, 3, 8, 16)), jnp.full((2, 6, 16), 0.5))[0, 0, 0, 0, 0].item()
    3.0
    """
    _check_coefficients(kernels, coefficients)
    coefficients = coefficients.astype(kernels.dtype)
    return weighted_kernels(kernels, coefficients, precision).astype(kernels.dtype)


def dynamic_conv(
    x: jax.Array | Normalized,
    kernels: jax.Array,
    coefficients: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    fusion: Fusion = "auto",
    precision=None,
    with_sums: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""Convolve every example with its own kernel, fused from the bank (Eq. 1 = Eq. 2).

    $O_t = \tilde w_t * x = \sum_i \eta_t^i (w_t^i * x)$: the left form fuses kernels, the right one feature maps. They
    are the same function, gradients included; which is faster depends on shapes and hardware.

    Args:
      x: [batch, *spatial, C_in], with 1, 2 or 3 spatial dimensions; or one that is to be normalised when it is read.
      kernels: the bank, [group_size, *kernel_size, C_in / feature_group_count, C_out].
      coefficients: [batch, group_size, C_out], or [batch, group_size, 1].
      strides, padding, kernel_dilation, feature_group_count, precision: as in `dynet_jax.ops.conv`.
      fusion: 'kernel', 'feature', or 'auto', which asks `choose_fusion`.
      with_sums: also return the sums for BatchNorm, `channel_sums` of the result.
    Returns:
      [batch, *output_spatial, C_out], in x's dtype; with sums a pair.
    Raises:
      ValueError: if shapes do not fit one another, or `fusion` is unknown.

    >>> import jax.numpy as jnp
    >>> x, bank = jnp.ones((2, 8, 8, 4)), jnp.ones((6, 3, 3, 4, 16))
    >>> dynamic_conv(x, bank, jnp.ones((2, 6, 16)), strides=2).shape
    (2, 4, 4, 16)
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(map(repr, FUSIONS))}, not {fusion!r}")
    _check_coefficients(kernels, coefficients)
    check_channels(x, kernels.shape[1:], feature_group_count)
    if coefficients.shape[0] != x.shape[0]:
        raise ValueError(f"x has {x.shape[0]} examples but coefficients has {coefficients.shape[0]}")
    options = dict(
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    plan = _plan(x, kernels, options) if fusion != "feature" else None
    x = as_array(x) if plan is None else x
    if fusion == "auto" and plan is not None:
        fusion = "kernel"
    elif fusion == "auto":
        fusion = choose_fusion(
            kernels.shape,
            batch=x.shape[0],
            backend=target_backend(),
            positions=_positions(x, kernels, options),
            feature_group_count=feature_group_count,
        )
    with jax.named_scope(f"dynamic_conv_{fusion}_fusion"):
        if isinstance(plan, DensePlan):
            return dense_dynamic_conv(x, kernels, coefficients, plan, with_sums=with_sums)
        if plan is not None:
            convolve = grouped_dynamic_conv if isinstance(plan, Plan) else pointwise_dynamic_conv
            return convolve(x, kernels, coefficients, plan, precision=precision, with_sums=with_sums)
        y = _plain(x, kernels, coefficients, fusion, options)
    return (y, channel_sums(y)) if with_sums else y


def _plain(x, kernels, coefficients, fusion, options):
    """By forms that read a map as it is, and give nothing else."""
    if fusion == "feature":
        return _fuse_features(x, kernels, coefficients, options)
    with jax.named_scope("fusion"):
        dynamic_kernels = fuse_kernels(kernels, coefficients, precision=options["precision"]).astype(x.dtype)
    with jax.named_scope("convolution"):
        if x.shape[0] == 1:  # one image has one kernel, and a plain convolution is the best way to use it
            return conv(x, dynamic_kernels[0], **options)
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

    (On TPUs most layers have one, see `make_plan` and `make_dense_plan` in `dynet_jax.ops.pallas.plan`: they fuse
    kernels.)

    - one image: fuse kernels; the convolution then costs what a static one costs.
    - depthwise layers: fuse kernels. They are shifted multiply-adds for static kernels too, and fusing feature maps
      would write g_t of them.
    - maps so small that the kernel of an image, used at few positions, costs more to fuse than g_t results at each of
      them: fuse feature maps. On a CPU these are maps of up to 4 positions, and up to 16 where one kernel spans k x k
      and all channels (measured with `benchmarks/dynamic_conv.py`, see `docs/performance.md`); elsewhere up to 4, by
      reasoning.
    - larger maps on a CPU: fuse kernels (measured, too).
    - larger maps on TPU and GPU: fuse kernels for pointwise layers, which are batched matrix products; fuse feature
      maps for other kernels, whose per-image forms move several times the bytes there (by the TPU compiler's count;
      GPUs follow the same rule until they have been measured).

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
    if positions is not None and positions <= few:
        return "feature"
    return "kernel" if backend == "cpu" or pointwise else "feature"


def _positions(x, kernels, options) -> int | None:
    """Of a map that the layer gives; None if sizes are symbols of `jax.export`."""
    _, window = make_window(x, kernels.shape[1:-2], options["strides"], options["padding"], options["kernel_dilation"])
    return window.positions(x.shape[1:-1])


def has_pallas_kernels() -> bool:
    """Whether the hardware that is traced for has kernels of its own. DYNET_JAX_PALLAS=0 turns them off."""
    off = os.environ.get("DYNET_JAX_PALLAS") == "0"
    return target_backend() == "tpu" and not off and target_device_kind() not in LITTLE_FAST_MEMORY


def _plan(x, kernels, options):
    """Of the TPU's kernel for this layer, or None."""
    if not has_pallas_kernels() or x.dtype not in (jnp.float32, jnp.bfloat16):
        return None
    if not all(isinstance(size, int) for size in x.shape) or x.shape[0] < 2:  # symbols of `jax.export`; one image
        return None
    if options["padding"] in ("CIRCULAR", "REFLECT"):
        return None
    _, window = make_window(x, kernels.shape[1:-2], options["strides"], options["padding"], options["kernel_dilation"])
    groups = options["feature_group_count"]
    layer = (x.shape, kernels.shape[-1], groups, window)
    plan = make_pointwise_plan(*layer) or make_plan(*layer, dtype=x.dtype)
    ambient = jax.config.jax_default_matmul_precision
    if plan is None and options["precision"] in (None, lax.Precision.DEFAULT) and ambient in (None, "default"):
        plan = make_dense_plan(x, kernels, groups, window)
    return plan


def _fuse_features(x, kernels, coefficients, options):
    """Eq. 2: all g_t kernels side by side as one convolution, then what they give is weighted and summed."""
    groups, (group_size, *kernel_size, c_in, c_out) = options["feature_group_count"], kernels.shape
    with jax.named_scope("convolution"):
        # A group of channels gives those of its group by every kernel, so they lie together.
        bank = kernels.reshape(group_size, *kernel_size, c_in, groups, c_out // groups)
        bank = jnp.moveaxis(bank, 0, -2).reshape(*kernel_size, c_in, group_size * c_out)
        features = conv(x, bank.astype(x.dtype), **options)
        features = features.reshape(*features.shape[:-1], groups, group_size, c_out // groups)
    with jax.named_scope("fusion"):
        shared = coefficients.shape[-1] == 1
        weights = coefficients.reshape(-1, group_size, 1 if shared else groups, 1 if shared else c_out // groups)
        return weighted_features(features, jnp.swapaxes(weights, 1, 2), options["precision"]).astype(x.dtype)


def _check_coefficients(kernels, coefficients):
    group_size, c_out = kernels.shape[0], kernels.shape[-1]
    if coefficients.ndim != 3 or coefficients.shape[1] != group_size or coefficients.shape[2] not in (1, c_out):
        raise ValueError(
            f"coefficients must be [batch, group_size={group_size}, features={c_out}] (or 1 feature) for a bank of "
            f"shape {kernels.shape}, not {coefficients.shape}"
        )
