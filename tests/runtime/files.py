"""Files of small networks, as `dynet export --format=native` writes them."""

import functools
import struct
import zlib

import numpy as np

from dynet_jax.data.preprocessing import Preprocessing
from dynet_jax.inference import program_of
from dynet_jax.inference.int8 import find_ranges
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.inference.program import Program
from tests.inference.networks import NAMES, PIXELS, SIZE, images, network
from tests.models.smallest import random_variables, shallow, smallest

PREPROCESSING = Preprocessing(48, 56, PIXELS["mean"], PIXELS["std"])
NUMBERS = {  # of --storage and --arithmetic
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "int8"),
    "mixed": ("bfloat16", "int8"),
}
SHAPES = ((1, 64, 64), (5, 65, 97))


@functools.cache
def program_named(name: str) -> Program:
    """Returns the program of a small network of any task."""
    if not name.startswith("fcn_"):
        return network(name)[2]
    model = shallow(smallest(name))
    return program_of(model, random_variables(model, SIZE), SIZE)


@functools.cache
def options_of(name: str, numbers: str) -> Numbers:
    storage, arithmetic = NUMBERS[numbers]
    program = program_named(name)
    ranges = find_ranges(program, PREPROCESSING, [images(2)]) if arithmetic == "int8" else None
    return Numbers(storage, arithmetic, ranges)


@functools.cache
def content(name: str, numbers: str = "float32") -> bytes:
    """Returns the file of a network whose classes have names if there are five."""
    program = program_named(name)
    outputs = program.values[program.result].channels
    names = NAMES if outputs == len(NAMES) else ()
    return write_file(program, options_of(name, numbers), PREPROCESSING, name=name, class_names=names)[0]


def difference(logits: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest magnitude."""
    assert logits.shape == wanted.shape
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


def with_checksum(file: bytes) -> bytes:
    """Returns a file whose size and checksum are right again."""
    sized = file[:16] + struct.pack("<Q", len(file)) + file[24:]
    return sized[:12] + struct.pack("<I", zlib.crc32(sized[16:])) + sized[16:]


def without_preprocessing(file: bytes) -> bytes:
    """Returns a file that does not say how pictures are preprocessed."""
    (name,) = struct.unpack_from("<I", file, 64)
    at = 68 + (name + 3) // 4 * 4 + 4 * (3 + 6)
    return with_checksum(file[:at] + bytes(6 * 4) + file[at + 6 * 4 :])
