"""Dynamic convolution (DyNet, section 3.2): g_t fixed kernels per output channel, fused into one for each image."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Shaped

from dynet_jax.ops.conv import check_channels
from dynet_jax.ops.fusion import check_coefficients
from dynet_jax.ops.implementation import implementation
from dynet_jax.ops.maps import FeatureMap, Map, Operand
from dynet_jax.ops.partition import over_images
from dynet_jax.ops.whole import whole
from dynet_jax.ops.window import Padding

Fusion = Literal["auto", "kernel", "feature"]
FUSIONS = ("auto", "kernel", "feature")


@whole
def dynamic_conv(
    x: Shaped[Map, "batch *spatial c_in"],
    kernels: Shaped[Operand, "group_size *kernel_size c_in_of_group c_out"],
    coefficients: Shaped[Operand, "batch group_size #c_out"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    fusion: Fusion = "auto",
    precision=None,
) -> Shaped[Map, "batch *output_spatial c_out"]:
    """Convolve every example with its own kernel, fused from the bank (Eq. 1 = Eq. 2).

    `O_t = w̃_t * x = Σ_i η_t^i (w_t^i * x)`: the left form fuses kernels, the right one feature maps. They
    are the same function, gradients included; which is faster depends on shapes and hardware.

    Args:
      x: [batch, *spatial, C_in], with 1, 2 or 3 spatial dimensions; or an opaque map.
      kernels: the bank, [group_size, *kernel_size, C_in / feature_group_count, C_out].
      coefficients: [batch, group_size, C_out], or [batch, group_size, 1].
      strides, padding, kernel_dilation, feature_group_count, precision: as in `dynet_jax.ops.conv`.
      fusion: 'kernel', 'feature', or 'auto', for the faster one (see `choose_fusion`).
    Returns:
      [batch, *output_spatial, C_out], in x's dtype; an opaque map of an opaque one.
    Raises:
      ValueError: if shapes do not fit one another, or `fusion` is unknown.

    >>> import jax.numpy as jnp
    >>> x, bank = jnp.ones((2, 8, 8, 4)), jnp.ones((6, 3, 3, 4, 16))
    >>> dynamic_conv(x, bank, jnp.ones((2, 6, 16)), strides=2).shape
    (2, 4, 4, 16)
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(map(repr, FUSIONS))}, not {fusion!r}")
    check_coefficients(kernels, coefficients)
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
    if isinstance(x, FeatureMap):
        return x.dynamic_conv(kernels, coefficients, fusion, options)

    def convolve(x, kernels, coefficients):
        return implementation().dynamic_conv(x, kernels, coefficients, fusion, options)

    return over_images(convolve, (0, None, 0), 0)(x, kernels, coefficients)
