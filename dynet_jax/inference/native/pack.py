"""Weights in the order in which the engine reads them (`layout.h`, `fuse.h`, `tiles.h` and `predictor.h` say why)."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from dynet_jax.inference.bank import Bank

BLOCK, VECTOR, WIDE = 6, 16, 64
STORAGE = {"float32": 0, "bfloat16": 1, "int8": 2}  # enum Storage
SINGLE, PAIRS, APART = 0, 1, 2  # enum Mode


class Panels(NamedTuple):
    """A kernel or a bank, block by block."""

    weights: np.ndarray
    mode: int
    scales: np.ndarray | None = None


class Columns(NamedTuple):
    """A linear layer, WIDE outputs at a time: [outputs / WIDE, C_in, WIDE]."""

    weights: np.ndarray
    bias: np.ndarray
    scales: np.ndarray | None = None


def pack_kernel(
    kernel: Shaped[np.ndarray, "*kernel_size c_in_of_group c_out"] | Bank, groups: int, *, paired: bool = False
) -> Panels:
    """Panels of a kernel, or of a bank of them, whose rows are an input and a tap each.

    paired: where maps are of pairs of channels. A row is then a pair of inputs and a tap, or, for a depthwise
    convolution, a tap alone, with two channels in a block. A kernel that is no bank is rounded to bfloat16 with it.
    """
    stored = kernel.kernels if isinstance(kernel, Bank) else kernel[None]
    group_size, *_, inputs, c_out = stored.shape
    mode = SINGLE if not paired else APART if inputs == 1 else PAIRS
    each = 2 if mode == PAIRS else 1  # neighbouring weights of an output
    rows = np.moveaxis(stored.reshape(group_size, -1, inputs // each, each, c_out), 1, 2)  # [g, inputs, taps, each, o]
    parts = []
    for first, width in _blocks(c_out, groups, 2 if mode == APART else BLOCK, across=mode == APART):
        panel = np.swapaxes(rows[..., first : first + width], -1, -2).reshape(group_size, -1)
        chunk = math.lcm(width * each, VECTOR)
        panel = np.pad(panel, [(0, 0), (0, -panel.shape[1] % (chunk * each))])  # whole chunks of elements, too
        parts.append(np.swapaxes(panel.reshape(group_size, -1, chunk), 0, 1).ravel())
    weights = np.concatenate(parts)
    if mode == PAIRS and not isinstance(kernel, Bank):
        weights = weights.astype(ml_dtypes.bfloat16)
    scales = kernel.scales if isinstance(kernel, Bank) else None
    return Panels(weights, mode, scales)


def pack_linear(kernel: Shaped[np.ndarray, "c_in c_out"], bias: Shaped[np.ndarray, " c_out"], storage: str) -> Columns:
    """Columns of a linear layer, rounded like a bank of one."""
    bank = Bank(kernel[None]).stored_as(storage)
    missing = -kernel.shape[1] % WIDE
    columns = np.pad(bank.kernels[0], [(0, 0), (0, missing)])
    columns = np.swapaxes(columns.reshape(len(kernel), -1, WIDE), 0, 1)
    scales = None if bank.scales is None else np.pad(bank.scales[0], (0, missing))
    return Columns(columns, np.pad(bias, (0, missing)).astype(np.float32), scales)


def _blocks(c_out: int, groups: int, most: int, *, across: bool) -> list[tuple[int, int]]:
    """(first output, how many) of blocks of at most `most`, none across groups unless that is allowed."""
    groups = 1 if across else groups
    per_group = c_out // groups
    return [
        (group * per_group + start, min(most, per_group - start))
        for group in range(groups)
        for start in range(0, per_group, most)
    ]
