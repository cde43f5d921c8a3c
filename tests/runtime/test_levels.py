"""The library for every level of instructions, on x86-64 and, where there is a cross-compiler, on ARM64."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.inference.int8 import find_ranges
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.models.registry import list_models
from tests.inference.networks import images
from tests.inference.operations import one_convolution
from tests.inference.test_int8 import program_of_groups
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import NUMBERS, PREPROCESSING, content, difference
from tests.runtime.libraries import every_level, for_arm, needs_arm, needs_cmake, run

pytestmark = [needs_compiler, needs_cmake, pytest.mark.slow]
SHAPE = (2, 64, 64)
# A sum between two bytes may be rounded to either where floats are added in another order, and these deep networks of a
# few channels amplify it, as FCNs with random weights amplify rounding of floats. Single layers have a small tolerance.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-4, "int8": 0.15, "mixed": 0.15}
OF_FCNS = {"float32": 1e-3, "int8": 0.15}
SOURCE = Path(__file__).parent / "logits.c"


def check(command, name, numbers, folder, environment=None) -> str:
    """Runs the program on a network's file, compares its logits, and returns the level that it has used."""
    tolerance = OF_FCNS if name.startswith("fcn_") else TOLERANCE
    return check_file(command, content(name, numbers), tolerance[numbers], folder, environment)


def check_file(command, file, tolerance, folder, environment=None) -> str:
    path = folder / "network.dynet"
    path.write_bytes(file)
    pixels = images(*SHAPE)
    wanted = dynet_runtime.load(path, threads=2).logits(pixels)
    arguments = [*command, path, *SHAPE[1:]]
    result = subprocess.run(
        list(map(str, arguments)), input=pixels.tobytes(), env=os.environ | (environment or {}), capture_output=True
    )
    assert result.returncode == 0, result.stderr
    logits = np.frombuffer(result.stdout, np.float32).reshape(wanted.shape)
    assert difference(logits, wanted) <= tolerance
    return result.stderr.decode().strip()


@functools.cache
def single_convolutions() -> list[bytes]:
    """Returns files of single convolutions of bytes, in odd groups and with numbers of channels that fill no quads."""
    programs = [
        *(program_of_groups(18, 18, 3, dynamic) for dynamic in (False, True)),
        *(program_of_groups(10, 10, 10, dynamic) for dynamic in (False, True)),
        *(one_convolution(dynamic, "numbers", outputs=70, activation="hard_swish") for dynamic in (False, True)),
    ]
    files = []
    for program in programs:
        ranges = find_ranges(program, PREPROCESSING, [images(2)])
        for storage in ("float32", "int8"):
            files.append(write_file(program, Numbers(storage, "int8", ranges), PREPROCESSING)[0])
    return files


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    prefix, path = every_level(), tmp_path_factory.mktemp("program") / "logits"
    library = prefix / "lib"
    run("cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", SOURCE, f"-I{prefix}/include", "-o", path,
        f"-L{library}", "-ldynet", f"-Wl,-rpath,{library}")  # fmt: skip
    return path


def levels_here() -> list[str]:
    script = "from dynet_runtime.library import levels; print(*levels())"
    library = every_level() / "lib/libdynet.so"
    return run(sys.executable, "-c", script, env=os.environ | {"DYNET_LIBRARY": str(library)}).split()


def test_every_level(program, tmp_path):
    found = levels_here()
    assert found[-1] == "baseline"
    for level in found:
        for file in single_convolutions():
            assert check_file([program], file, 2e-3, tmp_path, {"DYNET_LEVEL": level}) == level
        for name in ("dy_mobile", "dy_resnet18", "dy_shuffle", "dy_mobilenet_v3_small"):
            for numbers in NUMBERS:
                assert check([program], name, numbers, tmp_path, {"DYNET_LEVEL": level}) == level


@pytest.mark.parametrize("name", list_models())
def test_every_network(program, name, tmp_path):
    for numbers in ("float32", "int8"):
        assert check([program], name, numbers, tmp_path) == levels_here()[0]


def test_symbols():
    """Nothing but the C interface can be seen from outside."""
    symbols = run("nm", "-D", "--defined-only", every_level() / "lib/libdynet.so").split("\n")
    names = {line.split()[-1] for line in symbols if line}
    header = (Path(dynet_runtime.__file__).parent / "include/dynet.h").read_text()
    assert "dynet_load" in names
    assert all(name.startswith("dynet_") and f"{name}(" in header for name in names), names


@needs_arm
@pytest.mark.parametrize(("cpu", "level"), [("cortex-a53", "baseline"), ("cortex-a76", "dotprod"), ("max", "i8mm")])
def test_arm(cpu, level, tmp_path):
    prefix, path = for_arm(), tmp_path / "logits"
    run("aarch64-linux-gnu-gcc", "-O1", SOURCE, f"-I{prefix}/include", "-o", path, prefix / "lib/libdynet.a",
        "-static", "-lstdc++", "-lm", "-pthread")  # fmt: skip
    for file in single_convolutions():
        assert check_file(["qemu-aarch64", "-cpu", cpu, path], file, 2e-3, tmp_path) == level
    for name in ("dy_mobile", "dy_resnet18", "dy_shuffle"):
        for numbers in NUMBERS:
            assert check(["qemu-aarch64", "-cpu", cpu, path], name, numbers, tmp_path) == level
