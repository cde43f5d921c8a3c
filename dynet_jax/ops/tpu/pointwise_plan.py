"""How a 1x1 layer of few channels is divided into blocks for its kernel, and whether it can be.

The kernel's operands are x, [height, width, C_in, images], and weights, [C_in, C_out, images].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynet_jax.ops.strips import LANES, strips_of
from dynet_jax.ops.tpu.tiles import divisors, images_per_block, vmem_bytes
from dynet_jax.ops.window import Window

BLOCK_BYTES = 2**22  # of a block in float32: the gradient holds eight


class PointwiseScratch(NamedTuple):
    weights: jax.ShapeDtypeStruct  # of a block of images, in float32; [C_out, C_in, images] for gradients


class PointwisePlan(NamedTuple):
    """Blocks of [rows, width, channels, images]."""

    rows: int
    images: int  # in a block, in all strips
    strips: int = 1  # as in `GroupedPlan`
    interpret: bool = False

    def scratch(self, x, weights) -> PointwiseScratch:
        c_in, c_out, _ = weights.shape
        return PointwiseScratch(jax.ShapeDtypeStruct((c_in, c_out, self.images), jnp.float32))

    def gradient_scratch(self, x, weights) -> PointwiseScratch:
        c_in, c_out, _ = weights.shape
        return PointwiseScratch(jax.ShapeDtypeStruct((c_out, c_in, self.images), jnp.float32))


def make_pointwise_plan(x, kernels, groups: int, window: Window, *, interpret: bool = False) -> PointwisePlan | None:
    """Returns the plan of a 1x1 layer of few channels and many images; None for others, which are matrix products.

    x: [batch, height, width, C_in]; kernels: [group_size, 1, 1, C_in, C_out]. Only shapes are used.
    """
    if x.ndim != 4 or groups > 1 or not window.is_pointwise or window.strides != (1, 1):
        return None
    batch, height, width, c_in = x.shape
    channels = max(c_in, kernels.shape[-1])
    strips = strips_of((batch, height, width, channels))
    if window.padding != ((0, 0), (0, 0)) or strips is None:
        return None
    images = images_per_block(strips * batch, (LANES,))
    row_bytes = vmem_bytes((width, channels, images), jnp.float32)
    rows = next((rows for rows in divisors(height // strips) if rows * row_bytes <= BLOCK_BYTES), None)
    return None if rows is None else PointwisePlan(rows, images, strips, interpret)
