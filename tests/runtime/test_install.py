"""From an installed library to a program of one's own, and to a wheel: nothing but compilers and CMake is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import dynet_jax.inference
from dynet_jax.cli import main
from dynet_jax.data.source import load_source
from tests.inference.test_programs import needs_compiler
from tests.inference.workdirs import make_workdir
from tests.runtime.libraries import SOURCE, every_level, needs_cmake, run

pytestmark = [needs_compiler, needs_cmake, pytest.mark.slow]
PROGRAM = Path(__file__).parent / "classify_digit.c"
PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(example LANGUAGES C CXX)
find_package(dynet REQUIRED)
add_executable(classify_digit classify_digit.c)
target_link_libraries(classify_digit PRIVATE dynet::dynet)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A network for digits, exported."""
    folder = make_workdir(
        tmp_path_factory.mktemp("run") / "digits", list("0123456789"), size=32, resize_to=32, dataset="digits"
    )
    assert main(["export", str(folder), "--format=native", f"--out={folder}/digits.dynet"]) == 0
    return folder


def digit(number: int) -> tuple[np.ndarray, str]:
    """Returns a test image of the digits, and its 64 numbers from 0 to 16."""
    from sklearn.datasets import load_digits

    grey = load_digits().images[5 * number + 4]
    picture = np.repeat(np.round(grey * (255 / 16)).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(picture, _of_dataset(number))
    return picture, " ".join(str(int(value)) for value in grey.ravel())


def _of_dataset(number: int) -> np.ndarray:
    image = load_source("digits", "test")[number].image
    return np.broadcast_to(image.reshape(8, 8, -1), (8, 8, 3))


def check_program(program: Path, workdir: Path, environment=None):
    """The classes and probabilities of `dynet predict`."""
    model = dynet_jax.inference.load(workdir, runtime="native")
    for number in range(3):
        picture, numbers = digit(number)
        wanted = model.predict(picture, count=10).top
        output = run(program, workdir / "digits.dynet", input=numbers, env=environment)
        found = [(name, float(probability)) for name, probability in map(str.split, output.strip().split("\n"))]
        assert [name for name, _ in found] == [name for name, _ in wanted]
        np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted], rtol=1e-4)


def test_find_package(tmp_path, workdir):
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    shutil.copy(PROGRAM, tmp_path)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={every_level()}")
    run("cmake", "--build", tmp_path / "build")
    check_program(tmp_path / "build/classify_digit", workdir)


def test_pkg_config(tmp_path, workdir):
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    prefix = every_level()
    flags = run(
        "pkg-config", "--cflags", "--libs", "dynet", env=os.environ | {"PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"}
    )
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", PROGRAM, *flags.split(), "-o", tmp_path / "program")
    check_program(tmp_path / "program", workdir, os.environ | {"LD_LIBRARY_PATH": f"{prefix}/lib"})


def test_the_example_program(tmp_path, workdir):
    """One line of JSON for each picture; what cannot be read is told in its own, and by the exit code."""
    picture, _ = digit(0)
    large = cv2.resize(picture, (70, 50), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "digit.ppm"), large[..., ::-1])
    (tmp_path / "broken.ppm").write_bytes((tmp_path / "digit.ppm").read_bytes()[:99])
    command = [every_level() / "bin/dynet_classify", workdir / "digits.dynet"]
    wanted = dynet_jax.inference.load(workdir, runtime="native").predict(large, count=5).top
    (line,) = run(*command, tmp_path / "digit.ppm").strip().split("\n")
    found = json.loads(line)
    assert found["image"] == str(tmp_path / "digit.ppm")
    assert [entry["class"] for entry in found["classes"]] == [name for name, _ in wanted]
    np.testing.assert_allclose([entry["probability"] for entry in found["classes"]], [p for _, p in wanted], atol=1e-5)
    result = subprocess.run(
        [*map(str, command), "none.jpg", str(tmp_path / "broken.ppm"), str(tmp_path / "digit.ppm")],
        capture_output=True,
        text=True,
    )
    errors = [json.loads(text) for text in result.stdout.strip().split("\n")]
    assert result.returncode == 1
    assert "No such file or directory" in errors[0]["error"]
    assert "ends too early" in errors[1]["error"]
    assert "classes" in errors[2]
    nothing = subprocess.run([str(command[0]), "none.dynet", "x.ppm"], capture_output=True, text=True)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr == "none.dynet cannot be read: No such file or directory\n"


def test_pictures_as_dynet_predict_reads_them(tmp_path, workdir):
    """Photographs are turned as EXIF data say, and what is transparent has its colours all the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    paths = [tmp_path / "transparent.png"]
    Image.fromarray(pixels).save(paths[0])
    for orientation in range(1, 9):
        paths.append(tmp_path / f"turned{orientation}.jpg")
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels[..., :3]).save(paths[-1], exif=exif, quality=100)
    command = [every_level() / "bin/dynet_classify", workdir / "digits.dynet"]
    result = subprocess.run([*map(str, command + paths)], capture_output=True, text=True)
    if "no picture of a kind that this program was built for" in result.stdout:
        pytest.skip("libjpeg and libpng are not installed")
    model = dynet_jax.inference.load(workdir, runtime="native")
    for path, line in zip(paths, result.stdout.strip().split("\n"), strict=True):
        wanted = model.predict(path, count=5).top
        found = json.loads(line)["classes"]
        assert [entry["class"] for entry in found] == [name for name, _ in wanted]
        np.testing.assert_allclose([entry["probability"] for entry in found], [p for _, p in wanted], atol=1e-3)


def test_a_wheel(tmp_path):
    """It has the library and the Python files, and needs NumPy alone."""
    pytest.importorskip("scikit_build_core")
    quick = ["-Ccmake.define.DYNET_EVERY_LEVEL=OFF", "-Ccmake.define.CMAKE_CXX_FLAGS_RELEASE=-O1"]
    copy = tmp_path / "source"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", *quick, copy, "-w", tmp_path)
    (wheel,) = tmp_path.glob("dynet_runtime-*.whl")
    assert re.search(r"-py3-none-(linux|manylinux)\w+\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {"dynet_runtime/__init__.py", "dynet_runtime/model.py", "dynet_runtime/lib/libdynet.so"} <= names
    script = "import sys, dynet_runtime.library as l; print(l._library_path(), l.levels(), 'jax' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key not in ("DYNET_LIBRARY", "CXX")}
    printed = run(sys.executable, "-c", script, cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path / "site")})
    assert printed.strip() == f"{tmp_path}/site/dynet_runtime/lib/libdynet.so ['native'] False"


def test_versions():
    """One version, wherever it is written."""
    texts = {
        "pyproject": (SOURCE / "pyproject.toml").read_text(),
        "cmake": (SOURCE / "CMakeLists.txt").read_text(),
        "header": (SOURCE / "include/dynet.h").read_text(),
        "python": (SOURCE / "__init__.py").read_text(),
    }
    patterns = {
        "pyproject": r'^version = "(.+)"',
        "cmake": r"project\(dynet VERSION (\S+)",
        "header": r'#define DYNET_VERSION "(.+)"',
        "python": r'^__version__ = "(.+)"',
    }
    versions = {re.search(patterns[name], text, re.MULTILINE)[1] for name, text in texts.items()}
    assert len(versions) == 1
