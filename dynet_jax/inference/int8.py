"""Maps in bytes: how a byte stands for a number, and by which ranges on real images that is chosen."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from dynet_jax.errors import UserError
from dynet_jax.inference.native.limits import reads_image_as_bytes
from dynet_jax.inference.native.lower import lower
from dynet_jax.inference.program import IMAGES, MAP, Channels, Convolution, MaxPool, Program, outputs
from dynet_jax.inference.run_jax import arrays_of, values_of

Ranges: TypeAlias = Mapping[int, tuple[float, float]]  # of the values of a lowered program, by number
SAMPLES = 512  # of a map of an image
LEAST_STEP = 1e-30  # of which float32 has the reciprocal
CLIPPINGS = np.linspace(0.3, 1, 36)
LARGEST = 255


class Bytes(NamedTuple):
    """A byte q stands for (q - zero) * step.

    >>> Bytes.of_range(-25.5, 102.0)
    Bytes(step=0.5, zero=51)
    """

    step: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Bytes":
        """Returns the bytes of a range; 0 is in it, and is a byte exactly, because padding is.

        Where all numbers are zeros, or hardly anything else, the step is 1.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / LARGEST
        step = step if step > LEAST_STEP else 1.0
        return cls(step, round(-low / step))

    def quantized(self, numbers: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """Returns the nearest bytes."""
        return np.clip(np.rint(numbers / self.step + self.zero), 0, LARGEST).astype(np.uint8)

    def numbers(self, quantized: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Returns what the bytes stand for."""
        return (quantized.astype(np.float32) - self.zero) * np.float32(self.step)


def find_ranges(
    program: Program,
    preprocessing: Preprocessing | ResizedPreprocessing,
    batches: Iterable[Shaped[np.ndarray, "batch height width 3"]],
) -> dict[int, tuple[float, float]]:
    """Returns the range of every map of bytes: the one that loses least, by squared errors, on the given images.

    That of a ReLU6 is no exception: few channels of a map come near to 6.

    Args:
      program: not lowered. Values of the result are those of `lower(program, "int8")`.
      batches: of preprocessed images, uint8 or float32 from 0 to 255; all of one size.
    Raises:
      UserError: if there are none, or a map is not finite.
    """
    program = lower(program, "int8")
    watched = byte_maps(program)
    arrays, samples = arrays_of(program), {value: [] for value in watched}
    mean, std = (jnp.asarray(numbers, jnp.float32) for numbers in (preprocessing.mean, preprocessing.std))

    @jax.jit
    def sampled(arrays, images):
        values = values_of(program, arrays, (images.astype(jnp.float32) - mean) / std)
        return {value: _sample(values[value]) for value in watched}

    for images in batches:
        for value, found in sampled(arrays, images).items():
            samples[value].append(np.asarray(found).ravel())
    if watched and not samples[watched[0]]:
        raise UserError("int8 arithmetic needs images to choose the ranges of its maps by, and there are none")
    ranges = {value: _least_loss(np.concatenate(found)) for value, found in samples.items()}
    return _shared(program, ranges)


def bytes_of(program: Program, ranges: Ranges | None) -> dict[int, Bytes]:
    """Returns how the maps of a lowered program are bytes. Raises UserError for ranges that are not this program's."""
    maps = byte_maps(program)
    if ranges is None or not ranges.keys() >= set(maps):
        raise UserError(
            "int8 arithmetic needs the ranges of all maps of the network; dynet_jax.inference.load finds them"
        )
    image = {IMAGES: Bytes(1.0, 0)} if reads_image_as_bytes(program) else {}  # as it is, not normalised
    return image | {value: Bytes.of_range(*ranges[value]) for value in maps}


def byte_maps(program: Program) -> list[int]:
    """Returns the maps of a lowered program that have ranges: not the image, floats made of it, or a map of logits."""
    given = (
        value
        for operation in program.operations
        for value in outputs(operation)
        if reads_image_as_bytes(program) or not (isinstance(operation, Convolution) and operation.x == IMAGES)
    )
    return [v for v in given if program.values[v].kind == MAP and v != program.result]


def _sample(x: jax.Array) -> jax.Array:
    """Returns the extremes of every image's map and a sample of its numbers: [batch, SAMPLES + 2] at most."""
    flat = x.reshape(len(x), -1)
    return jnp.concatenate([flat[:, _spread(flat.shape[1])], flat.min(1)[:, None], flat.max(1)[:, None]], axis=1)


def _spread(size: int) -> np.ndarray:
    """SAMPLES numbers below `size` at most, so that all channels take turns, and rows and columns: each is as far from
    the one before as the golden section says, or a little more, by what has no divisor in common with the size.

    >>> _spread(10)
    array([0, 7, 4, 1, 8, 5, 2, 9, 6, 3])
    """
    step = next(step for step in itertools.count(max(1, round(0.618 * size))) if math.gcd(step, size) == 1)
    return np.arange(min(size, SAMPLES)) * step % size


def _least_loss(samples: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(samples).all():
        raise UserError("a map of this network is not finite on the calibration images: the training has diverged")
    low, high = float(min(samples.min(), 0)), float(max(samples.max(), 0))

    def loss(clipping: float) -> float:
        coded = Bytes.of_range(low * clipping, high * clipping)
        return float(np.square(coded.numbers(coded.quantized(samples)) - samples).mean())

    best = min(CLIPPINGS[::-1], key=loss)  # the widest of those that are as good
    return low * best, high * best


def _shared(program: Program, ranges: dict[int, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """Returns ranges in which operations that only move bytes have one range for their inputs and outputs."""
    ranges = dict(ranges)
    moves = [op for op in program.operations if isinstance(op, Channels | MaxPool) and program.values[op.y].kind == MAP]
    for _ in moves:  # a range may have to go all the way through them
        for op in moves:
            together = [*op.inputs, op.y]
            low, high = zip(*(ranges[value] for value in together))
            ranges |= dict.fromkeys(together, (min(low), max(high)))
    return ranges
