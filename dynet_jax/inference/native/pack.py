"""Weights in the order in which the engine reads them (`fuse.h`, `tiles.h` and `predictor.h` say why)."""

import math
from typing import NamedTuple

import numpy as np

from dynet_jax.inference.bank import Bank

BLOCK, VECTOR, WIDE = 6, 16, 64
ALIGNMENT = 64  # bytes: a cache line
STORAGE = {"float32": 0, "bfloat16": 1, "int8": 2}  # enum Storage
BLOCK_FIELDS = np.dtype(
    [(name, np.int32) for name in ("first", "width", "size", "chunk")] + [("panel", np.int64), ("bank", np.int64)]
)


class Panels(NamedTuple):
    """A kernel or a bank, block by block."""

    weights: np.ndarray
    blocks: np.ndarray  # of BLOCK_FIELDS
    floats: int  # of the (fused) kernel
    scales: np.ndarray | None = None


class Columns(NamedTuple):
    """A linear layer, WIDE outputs at a time: [outputs / WIDE, C_in, WIDE]."""

    weights: np.ndarray
    bias: np.ndarray
    scales: np.ndarray | None = None


def pack_kernel(kernel: np.ndarray | Bank, groups: int) -> Panels:
    """[*kernel_size, C_in / groups, C_out], or a bank of them -> panels, whose rows are an input and a tap each."""
    stored = kernel.kernels if isinstance(kernel, Bank) else kernel[None]
    group_size, *_, c_out = stored.shape
    rows = np.moveaxis(stored, -2, 1).reshape(group_size, -1, c_out)
    blocks, parts, size = [], [], 0
    for first, width in _blocks(c_out, groups):
        panel = rows[..., first : first + width].reshape(group_size, -1)
        chunk = math.lcm(width, VECTOR)
        panel = np.pad(panel, [(0, 0), (0, -panel.shape[1] % chunk)])
        blocks.append((first, width, panel.shape[1], chunk, size, size * group_size))
        parts.append(np.swapaxes(panel.reshape(group_size, -1, chunk), 0, 1).ravel())
        size += panel.shape[1]
    scales = kernel.scales if isinstance(kernel, Bank) else None
    return Panels(aligned(np.concatenate(parts)), np.array(blocks, BLOCK_FIELDS), size, scales)


def pack_linear(kernel: np.ndarray, bias: np.ndarray, storage: str) -> Columns:
    """[C_in, C_out] and [C_out] -> columns, rounded like a bank of one."""
    bank = Bank(kernel[None]).stored_as(storage)
    missing = -kernel.shape[1] % WIDE
    columns = np.pad(bank.kernels[0], [(0, 0), (0, missing)])
    columns = np.swapaxes(columns.reshape(len(kernel), -1, WIDE), 0, 1)
    scales = None if bank.scales is None else np.pad(bank.scales[0], (0, missing))
    return Columns(aligned(columns), np.pad(bias, (0, missing)).astype(np.float32), scales)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy, in order, that begins with a cache line."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _blocks(c_out: int, groups: int) -> list[tuple[int, int]]:
    """(first output, how many), none across groups."""
    per_group = c_out // groups
    return [
        (group * per_group + start, min(BLOCK, per_group - start))
        for group in range(groups)
        for start in range(0, per_group, BLOCK)
    ]
