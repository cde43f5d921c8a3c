"""How a layer is divided among blocks of threads, and whether a kernel of this package can have it.

A block of threads has to keep what it works on in registers: 255 of 32 bits for each of its threads. Tiles have a fixed
size, so that what products take of the shared memory does not depend on the layer.
"""

import math
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from dynet_jax.ops.gpu.geometry import POSITIONS, Geometry
from dynet_jax.ops.window import Window

DTYPES = (jnp.float32, jnp.bfloat16)
MOST_ELEMENTS = 2**31  # of an array: addresses are counted in int32
WIDTH = 32  # channels of a tile of a grouped layer: two steps of a matrix unit
BLOCKS_OF_IMAGE = 16  # that its gradients are divided among at most: each has sums of its own for all weights
MOST_BLOCKS = 65535  # along all but the first axis of a grid
GROUPED_TAPS = 9  # of a window: the kernel for grouped layers is a program of all of them
TAPS_AT_ONCE = 3  # of a grouped layer, whose gradients are kept in registers
BANK_TILE = 6 * 64 * 64  # weights of a tile of the bank, of all its kernels, whose gradient is kept in registers
CARD_BLOCKS = 128  # of threads that a card works on at once, about
FUSED_TILES = 4  # of positions of an image, at most, that fuse kernels on their own


class GroupedPlan(NamedTuple):
    """A grouped layer: whole groups of channels are one product, with a matrix that is zero between groups."""

    members: int  # channels of a group, in and out
    geometry: Geometry
    interpret: bool = False

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


class Tiling(NamedTuple):
    """The part of a dense layer's product that a block of threads has: a tile of each of some images."""

    fuses: bool  # the kernels of the images, from the bank
    images: int
    most_columns: int  # channels of the result
    most_depth: int  # channels that are multiplied at once
    warps: int

    def columns(self, channels: int) -> int:
        return tile_width(channels, self.most_columns)

    def depth(self, channels: int) -> int:
        return tile_width(channels, self.most_depth)

    def grid(self, batch: int, channels: int, blocks: int) -> tuple[int, int, int]:
        """Returns the blocks by images, by channels of the result, and by positions, which there are as many of."""
        return blocks_of(batch, self.images), blocks_of(channels, self.columns(channels)), blocks


# What has been read of the bank is used for several images at once. Larger tiles would not fit the registers, or would
# make fewer blocks than a card works on at once.
FUSING = Tiling(fuses=True, images=4, most_columns=32, most_depth=32, warps=8)
READING = Tiling(fuses=False, images=1, most_columns=64, most_depth=64, warps=4)


class DensePlan(NamedTuple):
    """A layer with a window over all channels: a product for each of its positions.

    The kernels of small images are fused from the bank where they are used. An image of many tiles would fuse the same
    kernel in each of them, and its kernel is small beside its maps: that one is fused before, by XLA.
    """

    geometry: Geometry
    interpret: bool = False

    def tiling(self, positions: int) -> "Tiling":
        """Returns how a product is divided whose result has so many positions in an image."""
        return FUSING if blocks_of(positions, POSITIONS) <= FUSED_TILES else READING

    def bank_tile(self, group_size: int, c_in: int, c_out: int) -> tuple[int, int]:
        """Returns the channels in and out of a tile of the bank, and of its gradient."""
        columns = tile_width(c_out)
        return min(tile_width(c_in), 1 << (BANK_TILE // (group_size * columns)).bit_length() - 1), columns

    def image_parts(self, batch: int, tiles: int) -> int:
        """Returns in how many parts the batch is divided for the gradient of a bank of so many tiles."""
        return blocks_of(batch, self.images_of_part(batch, tiles))

    def images_of_part(self, batch: int, tiles: int) -> int:
        return blocks_of(batch, blocks_of(CARD_BLOCKS, tiles))


Plan: TypeAlias = GroupedPlan | PointwisePlan | DensePlan


def tile_width(channels: int, most: int = 64) -> int:
    """Returns the channels of a tile: a power of two, at least the 16 that a matrix unit takes at a time.

    >>> tile_width(36), tile_width(36, most=32), tile_width(3)
    (64, 32, 16)
    """
    return min(most, max(16, 1 << (channels - 1).bit_length()))


def blocks_of(number: int, size: int) -> int:
    """Returns how many blocks of a size hold a number of things."""
    return -(-number // size)


def make_plan(x, kernels, groups: int, window: Window, *, interpret: bool = False) -> Plan | None:
    """Returns the plan of a layer that has a kernel; None for others.

    x: [batch, height, width, C_in]; kernels: [group_size, *kernel_size, C_in / groups, C_out]. Only shapes and dtypes
    are used. Grouped layers have as many channels out as in, 2 to 16 of them in a group, and windows of up to 9
    positions; depthwise layers are no products, and XLA's multiply-adds are what they need. All windows over all
    channels have a plan if the bank has up to 24 kernels.
    """
    if x.ndim != 4 or x.dtype not in DTYPES or min(min(sides) for sides in window.padding) < 0:
        return None
    members, c_out = kernels.shape[-2:]
    output = (x.shape[0], *window.output_shape(x.shape[1:3]), c_out)
    if max(math.prod(x.shape), math.prod(output), x.shape[0] * math.prod(kernels.shape[1:])) >= MOST_ELEMENTS:
        return None
    if max(blocks_of(math.prod(shape[1:3]), POSITIONS) for shape in (x.shape, output)) > MOST_BLOCKS:
        return None
    geometry = Geometry(window, x.shape[1:3])
    if window.is_pointwise and groups == 1:
        plain = window.strides == (1, 1) and window.padding == ((0, 0), (0, 0))
        return PointwisePlan(interpret) if plain else None
    if x.shape[-1] == c_out and 2 <= members <= WIDTH // 2 and geometry.taps <= GROUPED_TAPS:
        return GroupedPlan(members, geometry, interpret)
    return _dense_plan(kernels, geometry, interpret) if groups == 1 else None


def _dense_plan(kernels, geometry: Geometry, interpret: bool) -> DensePlan | None:
    if math.prod(kernels.shape) >= MOST_ELEMENTS or kernels.shape[0] * 16 * tile_width(kernels.shape[-1]) > BANK_TILE:
        return None
    return DensePlan(geometry, interpret)
