"""How a layer is cut into blocks for the kernels of this package, and whether it can be."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from dynet_jax.ops.window import Window

BLOCK_BYTES = 2**22  # of a block of the input in float32; a call holds up to eight of that size
LANES, SUBLANE_BYTES = 128, 32  # of a tile of the fast memory
FEW_CHANNELS = 40  # with as few of them, images fill the lanes; the matrix unit is better at more
MANY_IMAGES = 64
MEMBERS = 8  # in a group at most: the work grows with it, and the matrix unit is better at larger ones


class Plan(NamedTuple):
    """Blocks of [rows, columns, *tile]."""

    members: int  # channels per group
    kernel_size: tuple[int, int]
    stride: int
    padding: tuple[int, int]  # above and to the left, 0 or 1
    channel_axis: int  # of the tile: 0 for (channels, images), 1 for (images, channels)
    images: int  # in a block
    rows: int  # of the output in a block
    interpret: bool = False  # run as plain JAX, on any hardware

    def taps(self) -> list[tuple[int, int, int]]:
        """(row, column, index) of the window's positions."""
        rows, columns = self.kernel_size
        return [(i, j, i * columns + j) for i, j in itertools.product(range(rows), range(columns))]

    @property
    def axes(self) -> tuple[int, int, int, int]:
        """Of [batch, rows, columns, channels], in the order of the blocks."""
        return (1, 2, 3, 0) if self.channel_axis == 0 else (1, 2, 0, 3)


def make_plan(x_shape: Sequence[int], c_out: int, groups: int, window: Window, *, interpret=False) -> Plan | None:
    """None if the kernels do not do this layer: then XLA's forms have to.

    They do 2-D windows of up to 3 x 3, one stride without dilation that divides the image, and groups with as many
    channels out as in, up to 8.
    """
    if len(x_shape) != 4:
        return None
    batch, height, width, channels = x_shape
    members, (stride, *others) = channels // groups, window.strides
    lows = tuple(low for low, _ in window.padding)
    fits = (
        channels == c_out
        and members <= MEMBERS
        and 1 < max(window.kernel_size) <= 3
        and others == [stride]
        and set(window.kernel_dilation) == {1}
        and height % stride == width % stride == 0
        and window.output_shape((height, width)) == (height // stride, width // stride)
        and all(low in (0, 1) and size - stride - low <= 1 for size, low in zip(window.kernel_size, lows))
    )
    if not fits:
        return None
    channel_axis = 0 if _images_fill_the_lanes(batch, channels) else 1
    images = math.gcd(batch, 16 if channel_axis == 1 else LANES)
    tile = (images, channels) if channel_axis == 1 else (channels, images)
    rows = _rows(height // stride, stride * padded_bytes((width, *tile), jnp.float32))
    return Plan(members, tuple(window.kernel_size), stride, lows, channel_axis, images, rows, interpret)


class PointwisePlan(NamedTuple):
    """Blocks of [rows, width, channels, images]."""

    rows: int
    images: int
    interpret: bool = False


def make_pointwise_plan(x_shape: Sequence[int], c_out: int, groups: int, window: Window) -> PointwisePlan | None:
    """For 1x1 layers of few channels and many images; None for others, which are batched matrix products."""
    if len(x_shape) != 4 or groups > 1 or not window.is_pointwise or window.strides != (1, 1):
        return None
    batch, height, width, c_in = x_shape
    channels = max(c_in, c_out)
    if window.padding != ((0, 0), (0, 0)) or not _images_fill_the_lanes(batch, channels):
        return None
    images = math.gcd(batch, LANES)
    return PointwisePlan(_rows(height, padded_bytes((width, channels, images), jnp.float32)), images)


def _images_fill_the_lanes(batch: int, channels: int) -> bool:
    return channels <= FEW_CHANNELS and batch >= MANY_IMAGES


def padded_bytes(shape: Sequence[int], dtype) -> int:
    """What an array takes in tiles of [sublanes, 128 lanes].

    >>> padded_bytes((3, 10, 96), jnp.bfloat16)
    12288
    """
    itemsize = jnp.dtype(dtype).itemsize
    *major, sublanes, lanes = shape
    return math.prod(major) * _up(sublanes, SUBLANE_BYTES // itemsize) * _up(lanes, LANES) * itemsize


def _rows(rows: int, row_bytes: int) -> int:
    """The largest part of all rows that divides them and fits in a block."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * row_bytes <= BLOCK_BYTES))


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
