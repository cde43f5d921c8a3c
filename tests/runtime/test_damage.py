"""Damaged files: an error with a line, never a crash and never a read outside of the file."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.inference.program import Convolution, Dense, Mean, Program, Value
from dynet_runtime.library import DAMAGED, NEWER
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import PREPROCESSING, content, with_checksum
from tests.runtime.libraries import SOURCE, run

pytestmark = needs_compiler
HERE = Path(__file__).parent


def load(file: bytes) -> dynet_runtime.Error:
    with pytest.raises(dynet_runtime.Error) as raised:
        dynet_runtime.load(file)
    assert "\n" not in str(raised.value)
    return raised.value


def test_files_that_are_cut_short():
    file = content("dy_mobile")
    for size in [*range(0, 130), *range(130, len(file), len(file) // 50)]:
        assert load(file[:size]).status == DAMAGED
        if size > 24:
            assert load(with_checksum(file[:size])).status == DAMAGED


def test_bits_that_are_changed():
    file = content("dy_mobile")
    for at in [*range(12, 200), *range(200, len(file), len(file) // 100)]:
        changed = file[:at] + bytes([file[at] ^ 0x10]) + file[at + 1 :]
        assert load(changed).status == DAMAGED


def test_other_files():
    assert "no file of dynet export --format=native" in str(load(b"PK" + bytes(200)))
    assert "no file of dynet export" in str(load(b""))
    newer = content("dy_mobile")
    newer = newer[:8] + struct.pack("<I", 2) + newer[12:]
    error = load(newer)
    assert error.status == NEWER
    assert "has version 2 of the format, and this library reads 1" in str(error)


def test_what_an_operation_must_hold_to():
    """The name of the operation is in the message."""
    file = bytearray(content("dy_mobile"))
    words = 64 + 4 * struct.unpack_from("<Q", file, 24)[0]
    struct.pack_into("<i", file, words - 16 * 3 - 12, 7)  # the inputs of the last layer
    error = load(with_checksum(bytes(file)))
    assert error.status == DAMAGED
    assert "a layer for another number of inputs" in str(error)


def test_arrays_that_are_named_twice():
    """A small file could have a network of any size otherwise."""
    file = bytearray(content("dy_mobile"))
    words = 64 + 4 * struct.unpack_from("<Q", file, 24)[0]
    weights, bias = words - 48, words - 16  # of the last layer
    file[bias : bias + 8] = file[weights : weights + 8]
    assert "an array begins within another one" in str(load(with_checksum(bytes(file))))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs GCC's sanitizers")
@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_files(tmp_path_factory, tmp_path, seed):
    program = _sanitized(tmp_path_factory)
    limits = {"ASAN_OPTIONS": "detect_leaks=1:max_allocation_size_mb=4096", "UBSAN_OPTIONS": "halt_on_error=1"}
    networks = (("dy_mobile", "float32"), ("dy_shuffle", "int8"), ("dy_resnet18", "bfloat16"))
    files = {name: content(name, numbers) for name, numbers in networks}
    for name, file in (files | {"far taps": _far_taps()}).items():
        (tmp_path / name).write_bytes(file)
        refused, taken = map(int, run(program, tmp_path / name, 150, seed, env=limits).split())
        assert refused > 50
        assert taken > 0


def _far_taps() -> bytes:
    """Returns a file of a convolution whose taps may lie many rows before and behind its map."""
    kernel, bias = np.ones((3, 3, 3, 4), np.float32), np.zeros(4, np.float32)
    far = Convolution("far", 0, 1, kernel, bias, kernel_dilation=(60, 60))
    layers = Mean("mean", 1, 2, False), Dense("logits", 2, 3, np.ones((4, 5), np.float32), np.zeros(5, np.float32))
    values = {0: Value("map", 3), 1: Value("map", 4), 2: Value("vector", 4), 3: Value("vector", 5)}
    return write_file(Program((far, *layers), 3, values), Numbers(), PREPROCESSING)[0]


def _sanitized(tmp_path_factory) -> Path:
    """The library and the program that damages files, with AddressSanitizer and UBSan.

    It is the baseline: without masked loads, what is read outside of a map is a read that sanitizers see.
    """
    folder = tmp_path_factory.getbasetemp().parent / "sanitized"
    folder.mkdir(exist_ok=True)
    program = folder / "mutate"
    flags = ["-std=c++20", "-O1", "-g1", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if not program.exists():
        level = ["-DDYNET_LEVEL=native", "-ffast-math", "-fno-finite-math-only"]
        run("g++", *flags, *level, "-c", SOURCE / "src/level.cpp", "-o", folder / "level.o")
        others = [SOURCE / "src" / f"{name}.cpp" for name in ("dynet", "levels", "read_network", "check_network")]
        run("g++", *flags, *others, HERE / "mutate.cpp", folder / "level.o", "-o", program)
    return program
