"""How a layer is cut into blocks for the kernels of this package, and whether it can be."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynet_jax.ops.strips import LANES, strips_of
from dynet_jax.ops.window import Window

BLOCK_BYTES = 2**22  # of a block of a pointwise layer in float32: the gradient holds eight; and of a dense layer
SUBLANE_BYTES = 32  # of a tile of the fast memory, with 128 lanes
SUBLANES = 16, 8  # of bfloat16; of float32
POSITIONS = 512  # of the output in a matrix product
CHUNK_BYTES = 2**17  # of a kernel in float32 that is fused at once: 32 vectors
DENSE_BYTES = 58 * 2**20  # that a dense layer may take of the fast memory
GROUPED_BYTES = 60 * 2**20  # that a grouped one may take
MEMBERS = 8  # in a group at most: the work grows with it, and the matrix unit is better at larger ones


class Plan(NamedTuple):
    """Blocks of [rows, columns, *tile]."""

    members: int  # channels per group
    kernel_size: tuple[int, int]
    stride: int
    padding: tuple[int, int]  # above and to the left, 0 or 1
    channel_axis: int  # of the tile: 0 for (channels, images), 1 for (images, channels)
    images: int  # in a block, in all strips
    rows: int  # of the output in a block
    strips: int = 1  # of each image, side by side in the lanes as if they were so many images
    interpret: bool = False  # run as plain JAX, on any hardware

    def bytes(self, width: int, tile: tuple[int, int], dtype) -> int:
        """Of the fast memory, that the gradient takes for images of a width: blocks twice, and its scratch.

        The blocks: x, the output's gradient and the output, each with a row above and one below, x's gradient, kernels.
        """
        rows, columns = self.stride * self.rows, width // self.stride
        maps = [(2 * rows + 2, width), *[(self.rows + 2, columns)] * 2]
        kernels = (self.members * math.prod(self.kernel_size), *tile)
        blocks = sum(hbm_bytes((*size, *tile), dtype) for size in maps)  # which keep their tiles
        blocks += hbm_bytes(kernels, dtype) + hbm_bytes(kernels, jnp.float32)
        scratch = [(rows + 2, width + 2), (self.rows + 2, columns + 2), (rows, width)]
        return 2 * blocks + sum(padded_bytes((*size, *tile), jnp.float32) for size in scratch)

    def taps(self) -> list[tuple[int, int, int]]:
        """(row, column, index) of the window's positions."""
        rows, columns = self.kernel_size
        return [(i, j, i * columns + j) for i, j in itertools.product(range(rows), range(columns))]

    def taps_onto(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """(down, right, index) of the positions of the window that read x at stride * (r, c) + (row, column).

        What reads there is the output at (r + down, c + right).
        """
        found = []
        for i, j, index in self.taps():
            down, right = row + self.padding[0] - i, column + self.padding[1] - j
            if down % self.stride == right % self.stride == 0:
                found.append((down // self.stride, right // self.stride, index))
        return found

    @property
    def axes(self) -> tuple[int, int, int, int]:
        """Of [batch, rows, columns, channels], in the order of the blocks."""
        return (1, 2, 3, 0) if self.channel_axis == 0 else (1, 2, 0, 3)


def make_plan(
    x_shape: Sequence[int], c_out: int, groups: int, window: Window, *, dtype=jnp.float32, interpret=False
) -> Plan | None:
    """None if the kernels do not do this layer: then XLA's forms have to.

    They do 2-D windows of up to 3 x 3, a stride of 1 or 2 that divides the image, no dilation, and groups with as many
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
        and stride <= 2
        and others == [stride]
        and set(window.kernel_dilation) == {1}
        and height % stride == width % stride == 0
        and window.output_shape((height, width)) == (height // stride, width // stride)
        and all(low in (0, 1) and size - stride - low <= 1 for size, low in zip(window.kernel_size, lows))
    )
    if not fits:
        return None
    height //= stride
    strips = strips_of((batch, height, width // stride, channels))
    channel_axis = 0 if strips else 1
    images = _images(strips * batch, (LANES,)) if strips else _images(batch, SUBLANES)
    tile = (channels, images) if strips else (images, channels)
    strips = strips or 1
    rows = height // strips
    plan = Plan(members, tuple(window.kernel_size), stride, lows, channel_axis, images, rows, strips, interpret)
    # As many rows as possible: those next to a block are read with it, and again with their own.
    smaller = (plan._replace(rows=part) for part in _parts(rows))
    return next((plan for plan in smaller if plan.bytes(width, tile, dtype) <= GROUPED_BYTES), None)


class PointwisePlan(NamedTuple):
    """Blocks of [rows, width, channels, images]."""

    rows: int
    images: int  # in a block, in all strips
    strips: int = 1  # as in `Plan`
    interpret: bool = False


def make_pointwise_plan(x_shape: Sequence[int], c_out: int, groups: int, window: Window) -> PointwisePlan | None:
    """For 1x1 layers of few channels and many images; None for others, which are batched matrix products."""
    if len(x_shape) != 4 or groups > 1 or not window.is_pointwise or window.strides != (1, 1):
        return None
    batch, height, width, c_in = x_shape
    channels = max(c_in, c_out)
    strips = strips_of((batch, height, width, channels))
    if window.padding != ((0, 0), (0, 0)) or strips is None:
        return None
    images = _images(strips * batch, (LANES,))
    row_bytes = padded_bytes((width, channels, images), jnp.float32)
    rows = next((rows for rows in _parts(height // strips) if rows * row_bytes <= BLOCK_BYTES), None)
    return rows and PointwisePlan(rows, images, strips)


class DensePlan(NamedTuple):
    """Whole images, one after another."""

    window: Window
    size: tuple[int, int]  # height and width of x
    channels: int  # of x
    images: int  # in a block
    rows: int  # of the output in a matrix product
    chunk: int  # inputs of a kernel that are fused at once
    interpret: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.window.output_shape(self.size)

    def scratch(self, bank, dtype) -> list[jax.ShapeDtypeStruct]:
        """The bank; an image padded, in tiles of channels; the same by columns of the window; its kernel; rows of y."""
        rows, columns = self.output_size
        columns = _up(columns, SUBLANES[1])  # whole vectors
        (top, _), (left, _) = self.window.padding
        last_row, last_column = (
            stride * (count - 1) + dilation * (size - 1)
            for size, stride, dilation, count in zip(*self.window[:3], (rows, columns))
        )
        stride, lanes = self.window.strides[0], min(self.channels, LANES)
        padded_rows = _up(max(top + self.size[0], last_row + 1), stride)
        padded_columns = _up(max(left + self.size[1], last_column + 1), SUBLANES[1])
        return [
            jax.ShapeDtypeStruct(bank.shape, jnp.float32),
            jax.ShapeDtypeStruct((self.channels // lanes, padded_rows, padded_columns, lanes), jnp.float32),
            jax.ShapeDtypeStruct((padded_rows // stride, stride, columns, bank.shape[2]), jnp.float32),
            jax.ShapeDtypeStruct(bank.shape[1:], dtype),
            jax.ShapeDtypeStruct((self.rows, columns, bank.shape[-1]), jnp.float32),
        ]

    def gradient_scratch(self, bank, dtype) -> list[jax.ShapeDtypeStruct]:
        """The same, and the gradients of the third and the fourth."""
        _, _, spread, kernel, _ = forward = self.scratch(bank, dtype)
        return [*forward, *(jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in (spread, kernel))]

    def bytes(self, bank, dtype) -> int:
        """Of the fast memory, that the gradient takes: blocks of x and of the output, and of their gradients, twice."""
        image = fold_shape((1, *self.size, self.channels))
        output = fold_shape((1, *self.output_size, bank.shape[-1]))
        blocks = 2 * padded_bytes(image, dtype) + 2 * padded_bytes(output, dtype)
        banks = padded_bytes(bank.shape, bank.dtype) + padded_bytes(bank.shape, jnp.float32)
        scratch = sum(padded_bytes(array.shape, array.dtype) for array in self.gradient_scratch(bank, dtype))
        return 2 * self.images * blocks + banks + scratch


def make_dense_plan(x, kernels, groups: int, window: Window, *, interpret=False) -> DensePlan | None:
    """For 2-D windows of several positions over all channels, if everything fits in the fast memory; None for others.

    x: [batch, height, width, C_in]; kernels: [group_size, *kernel_size, C_in, C_out]. Only shapes and dtypes are used.
    """
    if x.ndim != 4 or groups > 1 or window.is_pointwise or min(min(sides) for sides in window.padding) < 0:
        return None
    if x.shape[-1] > LANES and x.shape[-1] % LANES:
        return None
    group_size, kernel_rows, kernel_columns, c_in, c_out = kernels.shape
    bank = jax.ShapeDtypeStruct((group_size, kernel_rows, kernel_columns * c_in, c_out), kernels.dtype)
    rows, columns = window.output_shape(x.shape[1:3])
    plan = DensePlan(
        window,
        x.shape[1:3],
        c_in,
        images=_divisor(x.shape[0], BLOCK_BYTES // 4 // padded_bytes(fold_shape(x.shape)[1:], x.dtype)),
        rows=_divisor(rows, POSITIONS // _up(columns, SUBLANES[1])),
        chunk=_divisor(bank.shape[2], CHUNK_BYTES // padded_bytes((1, c_out), jnp.float32) * SUBLANES[1], SUBLANES[0]),
        interpret=interpret,
    )
    return plan if plan.bytes(bank, x.dtype) <= DENSE_BYTES else None


def fold_of(columns: int, channels: int) -> int:
    """How many columns of an image lie side by side in a vector of lanes: few channels would leave it empty."""
    fold = LANES // channels if channels < LANES and LANES % channels == 0 else 1
    return fold if columns % fold == 0 else 1


def fold_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """[batch, height, width, channels] -> [batch, height, width / fold, fold x channels]

    >>> fold_shape((2, 56, 56, 32))
    (2, 56, 14, 128)
    """
    *major, columns, channels = shape
    fold = fold_of(columns, channels)
    return (*major, columns // fold, fold * channels)


def _divisor(value: int, limit: int, multiple: int = 1) -> int:
    """Of the parts up to a limit that divide the value, and are multiples of something, the largest.

    Where there is none: 1, or with a multiple all of the value.
    """
    parts = [part for part in range(multiple, min(value, limit) + 1, multiple) if value % part == 0]
    return max(parts, default=1 if multiple == 1 else value)


def _images(batch: int, sizes: Sequence[int]) -> int:
    """Images in a block: of these sizes the first that divides them, else all of them, as TPUs ask for."""
    return next((size for size in sizes if batch % size == 0), batch)


def padded_bytes(shape: Sequence[int], dtype) -> int:
    """What an array takes in the fast memory, in tiles of [sublanes, 128 lanes].

    >>> padded_bytes((3, 10, 96), jnp.bfloat16)
    12288
    """
    return _tiled_bytes(shape, dtype, SUBLANE_BYTES // jnp.dtype(dtype).itemsize)


def hbm_bytes(shape: Sequence[int], dtype) -> int:
    """What it takes outside, where tiles have 8 rows for every dtype; those of two bytes lie there in pairs.

    >>> hbm_bytes((3, 18, 128), jnp.bfloat16)
    18432
    """
    return _tiled_bytes(shape, dtype, SUBLANES[1])


def _tiled_bytes(shape, dtype, rows):
    *major, sublanes, lanes = shape
    return math.prod(major) * _up(sublanes, rows) * _up(lanes, LANES) * jnp.dtype(dtype).itemsize


def _parts(whole: int) -> list[int]:
    """All that divide it, the largest first."""
    return [part for part in range(whole, 0, -1) if whole % part == 0]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
