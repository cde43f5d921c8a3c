"""Packs kernels for convolutions of bytes (`quads.h`, `rows.h`), and says how their sums become bytes again."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import LARGEST, Bytes
from dynet_jax.inference.native.limits import unknown
from dynet_jax.inference.program import Convolution

QUAD, STEP = 4, 16
TOGETHER = 16  # quads that some instructions take at once, all parts of a tap alike
LARGEST_WEIGHT = 127
MOST_WEIGHTS = (2**31 - 1) // (LARGEST * LARGEST_WEIGHT)  # of an output, whose sum is of 32 bits
CLIPPED = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


class Requantization(NamedTuple):
    """The conversion of sums of products to bytes: struct Requantization of the engine says what each number does."""

    x_step: float
    x_zero: float
    step: float
    zero: float
    before: float
    zero_before: float
    residual_step: float
    after: float
    zero_after: float
    least: float
    greatest: float


class Rows(NamedTuple):
    """A packed kernel or bank; the scales and bias of a static kernel are those of its integer sums."""

    weights: np.ndarray
    scales: np.ndarray | None
    bias: np.ndarray


def requantization(conv: Convolution, x: Bytes, y: Bytes | None, residual: Bytes | None) -> Requantization:
    """Returns how the sums of a convolution become the bytes of y, or floats if y is None."""
    clips = conv.activation is None or conv.activation in CLIPPED
    low, high = CLIPPED.get(conv.activation or "", (-np.inf, np.inf))
    result = y or Bytes(1.0, 0)
    step, zero = (result.step, result.zero) if clips else (1.0, 0)  # of the sums; behind the activation if there is one
    bounds = low / result.step + result.zero, high / result.step + result.zero
    if y is not None:
        bounds = max(bounds[0], 0), min(bounds[1], LARGEST)
    own, other = residual or Bytes(0.0, 0), zero
    return Requantization(
        *(x.step, x.zero, result.step, result.zero),
        *(1 / step, other - own.zero * own.step / step, own.step / step),
        *(1 / result.step, result.zero),
        *bounds,
    )


def pack_rows(conv: Convolution, r: Requantization) -> Rows:
    """Returns the rows of a kernel or bank whose inputs are bytes.

    A kernel that is no bank is rounded here, as the engine rounds what it has fused: to whole numbers, for each output
    channel in steps of its own.

    Raises UserError for a kernel whose sums might not fit into 32 bits.
    """
    kernel, bias = conv.kernel, _filled_up(conv.bias)
    height, width, inputs, _ = kernel.shape
    if height * width * inputs > MOST_WEIGHTS:
        raise unknown(conv, f"whose outputs sum more than {MOST_WEIGHTS:,} products, in int8 arithmetic")
    unit = _unit(conv)
    if isinstance(kernel, Bank):
        rows = _rows(kernel.kernels, conv.feature_group_count, unit)
        outputs, group_size, row = rows.shape
        steps = np.swapaxes(rows.reshape(outputs, group_size, -1, STEP), 1, 2)
        if steps.dtype == np.int8:  # in pairs of kernels
            steps = np.pad(steps, [(0, 0), (0, 0), (0, group_size % 2), (0, 0)])
            steps = np.swapaxes(steps.reshape(outputs, row // STEP, -1, 2, STEP), -1, -2)
        return Rows(steps, kernel.scales, bias)
    rounded, steps = _rounded(kernel)
    sums = rounded.sum(axis=(0, 1, 2))
    rows = _rows(rounded[None], conv.feature_group_count, unit)
    return Rows(
        rows.astype(np.int8),
        _filled_up(steps * r.x_step * r.before),
        _filled_up((conv.bias - steps * r.x_step * r.x_zero * sums) * r.before + r.zero_before),
    )


def for_raw_pixels(conv: Convolution, mean: Sequence[float], std: Sequence[float]) -> Convolution:
    """Returns the same convolution for raw pixels from 0 to 255; its padding is the mean of the pixels."""
    kernel = conv.kernel / np.asarray(std, np.float32)[:, None]  # pyrefly: ignore[unsupported-operation]  (no bank)
    steps = _rounded(kernel)
    used = steps[0] * steps[1]  # what is subtracted for the mean must be what the rounded kernel gives for it
    bias = conv.bias - np.einsum("hwio,i->o", used, np.asarray(mean, np.float32))
    return conv._replace(kernel=kernel, bias=bias.astype(np.float32))


def padding_of(x: Bytes | None, mean: Sequence[float]) -> int:
    """Returns the quad that stands for zeros in a map x, or in the image (x: None), whose zero is the mean."""
    channels = [x.zero] * QUAD if x else [min(max(round(value), 0), LARGEST) for value in mean]
    return sum(byte << (8 * position) for position, byte in enumerate(channels))


def _rounded(kernel: np.ndarray) -> tuple[np.ndarray, Float[np.ndarray, " c_out"]]:
    """Returns integers from -127 to 127 and the step of each output channel."""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    steps = (largest / np.float32(LARGEST_WEIGHT)).astype(np.float32)
    return np.rint(kernel / np.where(steps > 0, steps, 1)).astype(np.float32), steps


def _filled_up(array: np.ndarray) -> Float32[np.ndarray, " c"]:
    return np.pad(array, (0, -len(array) % QUAD)).astype(np.float32)


def _unit(conv: Convolution) -> int:
    """Returns the smallest number of groups whose inputs and outputs fill whole quads, or all."""
    *_, inputs, c_out = conv.kernel.shape
    outputs = c_out // conv.feature_group_count
    fewest = next(n for n in range(1, QUAD + 1) if n * inputs % QUAD == n * outputs % QUAD == 0)
    return min(fewest, conv.feature_group_count)


def _rows(stored: np.ndarray, groups: int, unit: int) -> np.ndarray:
    """Returns [outputs, group_size, weights of a row] (Rows in the engine's `layout.h`); outputs are padded with zeros.

    A row has the quads of all groups of a unit; weights for the inputs of other groups are zeros.
    """
    group_size, *_, inputs, c_out = stored.shape
    taps = stored.reshape(group_size, -1, inputs, c_out)
    quads = _in_parts(math.ceil(unit * inputs / QUAD), 1)
    rows = np.zeros((c_out + -c_out % QUAD, group_size, taps.shape[1], quads * QUAD), stored.dtype)
    for output in range(c_out):
        at = output // (c_out // groups) % unit * inputs
        rows[output, :, :, at : at + inputs] = taps[..., output]
    rows = rows.reshape(len(rows), group_size, -1)
    size = _in_parts(rows.shape[-1] // QUAD, STEP // QUAD) * QUAD
    return np.pad(rows, [(0, 0), (0, 0), (0, size - rows.shape[-1])])


def _in_parts(quads: int, unit: int) -> int:
    """Returns the quads, rounded up so that they split into equal parts of at most TOGETHER, multiples of `unit`."""
    parts = math.ceil(quads / TOGETHER)
    return math.ceil(quads / (parts * unit)) * parts * unit
