"""The library for every level of instructions, on x86-64 and, where there is a cross-compiler, on ARM64."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.models.registry import list_models
from tests.inference.networks import images
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import NUMBERS, content, difference
from tests.runtime.libraries import every_level, for_arm, needs_arm, needs_cmake, run

pytestmark = [needs_compiler, needs_cmake, pytest.mark.slow]
SHAPE = (2, 64, 64)
# A sum between two bytes may be rounded to either where floats are added in another order.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-4, "int8": 2e-3, "mixed": 2e-3}
SOURCE = Path(__file__).parent / "logits.c"


def check(command, name, numbers, folder, environment=None) -> str:
    """Runs the program on a network's file, compares its logits, and returns the level that it has used."""
    path = folder / f"{name}-{numbers}.dynet"
    path.write_bytes(content(name, numbers))
    pixels = images(*SHAPE)
    wanted = dynet_runtime.load(path, threads=2).logits(pixels)
    arguments = [*command, path, *SHAPE[1:]]
    result = subprocess.run(
        list(map(str, arguments)), input=pixels.tobytes(), env=os.environ | (environment or {}), capture_output=True
    )
    assert result.returncode == 0, result.stderr
    logits = np.frombuffer(result.stdout, np.float32).reshape(wanted.shape)
    assert difference(logits, wanted) <= TOLERANCE[numbers]
    return result.stderr.decode().strip()


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
    for name in ("dy_mobile", "dy_resnet18", "dy_shuffle"):
        for numbers in NUMBERS:
            assert check(["qemu-aarch64", "-cpu", cpu, path], name, numbers, tmp_path) == level
