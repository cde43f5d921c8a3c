"""Convolutions of bytes: kernels as `quads.h` reads them, and how sums become bytes again (`tiles.h`)."""

import ctypes
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import LARGEST, Bytes
from dynet_jax.inference.native.pack import BLOCK_FIELDS, Panels, aligned, pack_kernel
from dynet_jax.inference.program import IMAGES, Convolution, Program

QUADS, QUADS_APART, QUADS_TO_FLOATS, FLOATS_TO_QUADS = range(3, 7)  # enum Mode
QUAD, ROW = 4, 16
ORDER = {1: [0, 1, 2, 3], 2: [0, 2, 1, 3]}  # of the weights of a quad, by the words that they take
LARGEST_WEIGHT = 127
CLIPPED = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


class Requantization(ctypes.Structure):
    """struct Requantization"""

    _fields_ = [
        (name, ctypes.c_float)
        for name in (
            *("x_step", "x_zero", "step", "zero", "before", "zero_before"),
            *("residual_step", "after", "zero_after", "least", "greatest"),
        )
    ]


def mode_of(conv: Convolution, program: Program) -> int:
    """enum Mode of a convolution of a program whose maps are bytes, except for the image and the result."""
    if conv.x == IMAGES:
        return 0 if conv.y == program.result else FLOATS_TO_QUADS
    if conv.y == program.result:
        return QUADS_TO_FLOATS
    *_, inputs, c_out = conv.kernel.shape
    return QUADS_APART if inputs == 1 and c_out == conv.feature_group_count else QUADS


def requantization(conv: Convolution, x: Bytes, y: Bytes | None, residual: Bytes | None) -> Requantization:
    """What is done to the sums of a convolution; y: None if the result is floats."""
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


def pack_quads(conv: Convolution, mode: int, words: int, r: Requantization) -> tuple[Panels, Float32[np.ndarray, " c"]]:
    """A kernel or bank whose inputs are bytes, in blocks of four outputs; and the bias, or offsets of what is static.

    words: in which the library has the four weights of a quad. A kernel that is no bank is rounded here, as the engine
    rounds what it has fused: to whole numbers, for each output channel in steps of its own.
    """
    kernel, bias = conv.kernel, _filled_up(conv.bias)
    if isinstance(kernel, Bank):
        stored, scales = kernel.kernels, kernel.scales
    else:
        stored, own = _rounded(kernel)
        sums = stored.astype(np.float32).sum(axis=tuple(range(stored.ndim - 1)))
        scales = _filled_up(own * r.x_step * r.before)
        bias = _filled_up((conv.bias - own * r.x_step * r.x_zero * sums) * r.before + r.zero_before)
    each = 1 if mode == QUADS_APART else QUAD
    blocks, parts, elements, weights = [], [], 0, 0
    for first in range(0, stored.shape[-1], QUAD):
        panel = _apart(stored, first) if mode == QUADS_APART else _dense(stored, first, conv.feature_group_count, words)
        panel = panel.reshape(len(stored), -1)
        panel = np.pad(panel, [(0, 0), (0, -panel.shape[1] % ROW)])
        blocks.append((first, QUAD, panel.shape[1], ROW, elements, weights))
        parts.append(np.swapaxes(panel.reshape(len(stored), -1, ROW), 0, 1).ravel())
        elements += panel.shape[1] * words // each if each == QUAD else panel.shape[1]
        weights += panel.size
    packed = np.concatenate(parts)
    if not isinstance(kernel, Bank):
        packed = packed.astype(np.float32 if mode == QUADS_APART else {1: np.int8, 2: np.int16}[words])
    return Panels(aligned(packed), np.array(blocks, BLOCK_FIELDS), elements, mode, scales), bias


def pack_first(conv: Convolution) -> tuple[Panels, Float32[np.ndarray, " c"]]:
    """The same of a layer that reads the image: floats, in blocks of four outputs."""
    groups = conv.feature_group_count
    kernel = _map_kernels(conv.kernel, lambda k: _one_group(k, groups))
    missing = -kernel.shape[-1] % QUAD
    kernel = _map_kernels(kernel, lambda k: np.pad(k, [(0, 0)] * (k.ndim - 1) + [(0, missing)]))
    return pack_kernel(kernel, 1, most=QUAD)._replace(mode=FLOATS_TO_QUADS), _filled_up(conv.bias)


def _map_kernels(kernel: np.ndarray | Bank, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | Bank:
    return kernel._replace(kernels=function(kernel.kernels)) if isinstance(kernel, Bank) else function(kernel)


def _one_group(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The same convolution without groups: weights of the channels of other groups are zeros."""
    *size, inputs, c_out = kernel.shape
    whole = np.zeros((*size, inputs * groups, c_out), kernel.dtype)
    for group in range(groups):
        own = slice(group * c_out // groups, (group + 1) * c_out // groups)
        whole[..., group * inputs : (group + 1) * inputs, own] = kernel[..., own]
    return whole


def _rounded(kernel: np.ndarray) -> tuple[np.ndarray, Float[np.ndarray, " c_out"]]:
    """([1, *kernel] of whole numbers, the step of each output channel)"""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    steps = (largest / np.float32(LARGEST_WEIGHT)).astype(np.float32)
    return np.rint(kernel / np.where(steps > 0, steps, 1))[None], steps


def _filled_up(array: np.ndarray) -> Float32[np.ndarray, " c"]:
    return np.pad(array, (0, -len(array) % QUAD)).astype(np.float32)


def _dense(stored: np.ndarray, first: int, groups: int, words: int) -> np.ndarray:
    """[group_size, quads, taps, outputs, QUAD] of the block of outputs from `first` on."""
    group_size, *_, inputs, c_out = stored.shape
    taps = stored.reshape(group_size, -1, inputs, c_out)
    outputs = c_out // groups
    own = range(first, min(first + QUAD, c_out))
    begin, end = own[0] // outputs * inputs // QUAD, -(-(own[-1] // outputs + 1) * inputs // QUAD)
    panel = np.zeros((group_size, taps.shape[1], (end - begin) * QUAD, QUAD), stored.dtype)
    for position, output in enumerate(own):
        at = output // outputs * inputs - begin * QUAD
        panel[:, :, at : at + inputs, position] = taps[..., output]
    panel = panel.reshape(group_size, -1, end - begin, QUAD, QUAD)[:, :, :, ORDER[words]]
    return panel.transpose(0, 2, 1, 4, 3)


def _apart(stored: np.ndarray, first: int) -> np.ndarray:
    """[group_size, taps, outputs]"""
    panel = stored.reshape(len(stored), -1, stored.shape[-1])[..., first : first + QUAD]
    return np.pad(panel, [(0, 0), (0, 0), (0, QUAD - panel.shape[-1])])
