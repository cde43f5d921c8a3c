"""How arrays lie in the tiles of a TPU's memories, and how their axes are divided into blocks."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from dynet_jax.ops.strips import LANES

SUBLANE_BYTES = 32  # of a tile of VMEM, which has 128 lanes
SUBLANES = 16, 8  # of bfloat16; of float32


def vmem_bytes(shape: Sequence[int], dtype) -> int:
    """Returns what an array takes in VMEM, in tiles of [sublanes, 128 lanes].

    >>> vmem_bytes((3, 10, 96), jnp.bfloat16)
    12288
    """
    return _tiled_bytes(shape, dtype, SUBLANE_BYTES // jnp.dtype(dtype).itemsize)


def hbm_bytes(shape: Sequence[int], dtype) -> int:
    """Returns what an array takes in HBM, whose tiles have 8 rows for every dtype; rows of two bytes lie in pairs.

    >>> hbm_bytes((3, 18, 128), jnp.bfloat16)
    18432
    """
    return _tiled_bytes(shape, dtype, SUBLANES[1])


def _tiled_bytes(shape, dtype, rows):
    *major, sublanes, lanes = shape
    return math.prod(major) * round_up(sublanes, rows) * round_up(lanes, LANES) * jnp.dtype(dtype).itemsize


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def divisors(value: int) -> list[int]:
    """Returns all of them, the largest first."""
    return [part for part in range(value, 0, -1) if value % part == 0]


def largest_divisor(value: int, limit: int, multiple: int = 1) -> int:
    """Returns the largest divisor of a value that is at most `limit`, and a multiple of `multiple`.

    Where there is none, it is 1, or the value itself if it had to be a multiple.
    """
    parts = [part for part in range(multiple, min(value, limit) + 1, multiple) if value % part == 0]
    return max(parts, default=1 if multiple == 1 else value)


def images_per_block(images: int, sizes: Sequence[int]) -> int:
    """Returns the first of the sizes that divides the images, or else all of them, as TPUs require."""
    return next((size for size in sizes if images % size == 0), images)
