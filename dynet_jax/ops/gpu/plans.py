"""How a layer is divided among blocks of threads, and whether a kernel of this package can have it.

A block of threads has to keep what it works on in registers: 255 of 32 bits for each of its 128 threads.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from dynet_jax.ops.window import Window

DTYPES = (jnp.float32, jnp.bfloat16)
MOST_ELEMENTS = 2**31  # of an array: addresses are counted in int32
WIDTH = 32  # channels of a tile of a grouped layer: two steps of a matrix unit
POSITIONS = 64  # of a tile
BLOCKS_OF_IMAGE = 16  # that its gradients are divided among at most: each has sums of its own for all weights
MOST_BLOCKS = 65535  # along all but the first axis of a grid
GROUPED_TAPS = 9  # of a window: a matrix for each is kept in registers


class GroupedPlan(NamedTuple):
    """A grouped layer: whole groups of channels are one product, with a matrix that is zero between groups."""

    members: int  # channels of a group, in and out
    window: Window
    size: tuple[int, int]  # height and width of x
    interpret: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        rows, columns = self.window.output_shape(self.size)
        return rows, columns

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Returns the row and the column, from the padded corner, that each position of the window sees."""
        (rows, columns), (down, right) = self.window.kernel_size, self.window.kernel_dilation
        return [(i * down, j * right) for i in range(rows) for j in range(columns)]

    @property
    def channels(self) -> int:
        """Returns how many of the channels of a tile are used: whole groups."""
        return WIDTH // self.members * self.members

    def gradient_blocks(self, positions: int) -> int:
        """Returns how many blocks of threads work on the gradients of an image and its tile of channels."""
        return min(BLOCKS_OF_IMAGE, blocks_of(positions, 4 * POSITIONS))


class PointwisePlan(NamedTuple):
    """A 1x1 layer: products of tiles of positions and of channels."""

    interpret: bool = False

    def width(self, channels: int) -> int:
        """Returns the channels of a tile: a power of two, at least the 16 that a matrix unit takes at a time."""
        return min(64, max(16, power_of_two(channels)))


def power_of_two(number: int) -> int:
    """Returns the smallest that is not less.

    >>> power_of_two(36)
    64
    """
    return 1 << (number - 1).bit_length()


def blocks_of(number: int, size: int) -> int:
    """Returns how many blocks of a size hold a number of things."""
    return -(-number // size)


def make_plan(
    x, kernels, groups: int, window: Window, *, interpret: bool = False
) -> GroupedPlan | PointwisePlan | None:
    """Returns the plan of a layer that has a kernel; None for others.

    x: [batch, height, width, C_in]; kernels: [group_size, *kernel_size, C_in / groups, C_out]. Only shapes and dtypes
    are used. Grouped layers have as many channels out as in, 2 to 16 of them in a group, and windows of up to 9
    positions; depthwise layers are no products, and XLA's multiply-adds are what they need.
    """
    if x.ndim != 4 or x.dtype not in DTYPES or min(min(sides) for sides in window.padding) < 0:
        return None
    members, c_out = kernels.shape[-2:]
    output = (x.shape[0], *window.output_shape(x.shape[1:3]), c_out)
    if max(math.prod(x.shape), math.prod(output), x.shape[0] * math.prod(kernels.shape[1:])) >= MOST_ELEMENTS:
        return None
    if max(blocks_of(math.prod(shape[1:3]), POSITIONS) for shape in (x.shape, output)) > MOST_BLOCKS:
        return None
    if window.is_pointwise and groups == 1:
        plain = window.strides == (1, 1) and window.padding == ((0, 0), (0, 0))
        return PointwisePlan(interpret) if plain else None
    if x.shape[-1] != c_out or not 2 <= members <= WIDTH // 2 or math.prod(window.kernel_size) > GROUPED_TAPS:
        return None
    return GroupedPlan(members, window, x.shape[1:3], interpret)
