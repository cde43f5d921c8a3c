"""How a grouped layer is divided into blocks for its kernel, and whether it can be.

The kernel's operands are x, [rows, columns, *tile], and weights, [taps x members, *tile].
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynet_jax.ops.strips import LANES, strips_of
from dynet_jax.ops.tpu.tiles import SUBLANES, divisors, hbm_bytes, images_per_block, vmem_bytes
from dynet_jax.ops.window import Window

GROUPED_BYTES = 60 * 2**20  # of VMEM that a layer may take
MEMBERS = 8  # in a group at most: the work grows with it, and the matrix unit is better at larger ones


class GroupedScratch(NamedTuple):
    """Scratch of the forward kernel, in float32."""

    x: jax.ShapeDtypeStruct  # a block with its halo, normalised and padded: [rows, columns / stride, stride, *tile]
    y: jax.ShapeDtypeStruct  # the sum over members


class GroupedGradientScratch(NamedTuple):
    """Scratch of the kernel for gradients, in float32."""

    x: jax.ShapeDtypeStruct  # as above
    dy: jax.ShapeDtypeStruct  # a block with its halo, padded
    dx: jax.ShapeDtypeStruct  # the sum over members: [rows, columns / stride, stride, *tile]


class GroupedPlan(NamedTuple):
    """Blocks of [rows, columns, *tile]."""

    members: int  # channels per group
    kernel_size: tuple[int, ...]
    stride: int
    padding: tuple[int, ...]  # above and to the left, 0 or 1
    channel_axis: int  # of the tile: 0 for (channels, images), 1 for (images, channels)
    images: int  # in a block, in all strips
    rows: int  # of the output in a block
    strips: int = 1  # of each image, side by side in the lanes as if they were so many images
    interpret: bool = False  # run as plain JAX, on any hardware

    @property
    def axes(self) -> tuple[int, int, int, int]:
        """The axes of [batch, rows, columns, channels], in the order of the blocks."""
        return (1, 2, 3, 0) if self.channel_axis == 0 else (1, 2, 0, 3)

    def tile_of_block(self, tile: Sequence[int]) -> tuple[int, int]:
        """Returns the part of all channels and images that is in a block."""
        return (tile[0], self.images) if self.channel_axis == 0 else (self.images, tile[1])

    def scratch(self, x, weights) -> GroupedScratch:
        tile, columns = self.tile_of_block(x.shape[2:]), x.shape[1]
        padded = (self.stride * self.rows + 2, (columns + 2) // self.stride, self.stride, *tile)
        return GroupedScratch(_float32(padded), _float32((self.rows, columns // self.stride, *tile)))

    def gradient_scratch(self, x, weights) -> GroupedGradientScratch:
        forward, tile, columns = self.scratch(x, weights), self.tile_of_block(x.shape[2:]), x.shape[1] // self.stride
        dy = (self.rows + 2, columns + 2, *tile)
        dx = (self.stride * self.rows, columns, self.stride, *tile)
        return GroupedGradientScratch(forward.x, _float32(dy), _float32(dx))

    def bytes(self, x, weights) -> int:
        """Returns what the gradient takes of VMEM: its blocks twice, as the next are fetched, and its scratch.

        The blocks are x, y and its gradient, each with its halo, x's gradient, weights and their gradient.
        """
        tile, columns = self.tile_of_block(x.shape[2:]), x.shape[1]
        rows_of_y, kernels = (self.rows + 2, columns // self.stride), (weights.shape[0], *tile)
        maps = [(2 * self.stride * self.rows + 2, columns), rows_of_y, rows_of_y]
        blocks = sum(hbm_bytes((*size, *tile), x.dtype) for size in maps)  # blocks keep the tiles that HBM has
        blocks += hbm_bytes(kernels, weights.dtype) + hbm_bytes(kernels, jnp.float32)
        return 2 * blocks + sum(vmem_bytes(a.shape, a.dtype) for a in self.gradient_scratch(x, weights))

    def taps(self) -> list[tuple[int, int, int]]:
        """Returns (row, column, index) of the window's positions."""
        rows, columns = self.kernel_size
        return [(i, j, i * columns + j) for i, j in itertools.product(range(rows), range(columns))]

    def taps_onto(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """Returns (down, right, index) of the taps that read x at stride * (r, c) + (row, column).

        The output that reads it is at (r + down, c + right).
        """
        found = []
        for i, j, index in self.taps():
            down, right = row + self.padding[0] - i, column + self.padding[1] - j
            if down % self.stride == right % self.stride == 0:
                found.append((down // self.stride, right // self.stride, index))
        return found


def make_grouped_plan(x, kernels, groups: int, window: Window, *, interpret: bool = False) -> GroupedPlan | None:
    """Returns the plan of a layer, or None if its kernel cannot do it: XLA's forms then have to.

    It does 2-D windows of up to 3 x 3, a stride of 1 or 2 that divides the image, no dilation, and groups with as many
    channels out as in, up to 8.

    x: [batch, height, width, C_in]; kernels: [group_size, *kernel_size, C_in / groups, C_out]. Only their shapes and
    x's dtype are used.
    """
    if not _has_kernel(x.shape, kernels.shape[-1], groups, window):
        return None
    batch, height, width, channels = x.shape
    stride, members = window.strides[0], channels // groups
    strips = strips_of((batch, height // stride, width // stride, channels))
    channel_axis = 0 if strips else 1
    images = images_per_block(strips * batch, (LANES,)) if strips else images_per_block(batch, SUBLANES)
    tile = (channels, strips * batch) if strips else (batch, channels)
    strips = strips or 1
    rows, padding = height // stride // strips, tuple(low for low, _ in window.padding)
    plan = GroupedPlan(members, window.kernel_size, stride, padding, channel_axis, images, rows, strips, interpret)
    operands = (
        jax.ShapeDtypeStruct((height // strips, width, *tile), x.dtype),
        jax.ShapeDtypeStruct((math.prod(window.kernel_size) * members, *tile), x.dtype),
    )
    # As many rows as possible: the halo of a block is read with it, and again as rows of its neighbours.
    smaller = (plan._replace(rows=part) for part in divisors(rows))
    return next((plan for plan in smaller if plan.bytes(*operands) <= GROUPED_BYTES), None)


def _has_kernel(x_shape, c_out, groups, window) -> bool:
    if len(x_shape) != 4:
        return False
    _, height, width, channels = x_shape
    stride, *others = window.strides
    lows = [low for low, _ in window.padding]
    return (
        channels == c_out
        and channels // groups <= MEMBERS
        and 1 < max(window.kernel_size) <= 3
        and stride <= 2
        and others == [stride]
        and set(window.kernel_dilation) == {1}
        and height % stride == width % stride == 0
        and window.output_shape((height, width)) == (height // stride, width // stride)
        and all(low in (0, 1) and size - stride - low <= 1 for size, low in zip(window.kernel_size, lows))
    )


def _float32(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
