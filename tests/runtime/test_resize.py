"""The runtime's preprocessing in C++, against OpenCV's by which networks are evaluated: the same bytes."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from tests.data.images import smooth

SOURCES = Path(__file__).parents[2] / "dynet_runtime" / "src"
WRAPPER = Path(__file__).parent / "preprocessing.cpp"
COMPILER = next(filter(shutil.which, ("c++", "g++", "clang++")), "")
NONE, CROP, RESIZED = range(3)
UNIT = (0.0,) * 3, (1.0,) * 3

pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")

CROPS = [  # height and width, then those of the crop, and what the shorter side becomes before
    (256, 256, 224, 224),
    (224, 224, 224, 224),
    (224, 224, 224, 256),
    (375, 500, 224, 256),
    (512, 512, 224, 256),  # a half
    (513, 511, 224, 256),
    (768, 768, 224, 256),  # a third
    (1024, 1024, 224, 256),
    (256, 300, 224, 256),  # to its own size
    (100, 80, 224, 256),
    (60, 90, 32, 24),  # the crop is larger than the shorter side then
    (3, 60, 32, 36),  # 1:20
    (300, 7, 32, 36),
    (1, 5000, 8, 9),
    (1, 1, 8, 9),
    (2, 1, 5, 1),
    (4000, 3000, 224, 256),
]
SIZES = [  # height and width, then those of the result
    (40, 60, 40, 60),
    *((24 * n, 40 * m, 24, 40) for n, m in [(2, 2), (3, 3), (4, 4), (8, 8), (2, 3), (1, 2), (2, 1), (17, 16), (1, 9)]),
    *((24 * n + d, 40 * n - d, 24, 40) for n in (2, 3, 4, 8) for d in (-1, 1)),
    (196, 400, 2, 400),  # 1 / (1 / 98) is not 98
    (96, 2001, 64, 2000),  # parts of pixels that are left out
    (50, 70, 51, 71),
    (51, 71, 50, 70),
    (30, 40, 60, 80),
    (33, 41, 100, 90),
    (60, 10, 20, 20),  # grows along one axis
    (10, 600, 20, 20),
    (20, 30, 40, 15),  # to as many pixels
    (1, 50, 7, 1),
    (50, 1, 1, 7),
    (1, 1, 9, 9),
    (9, 9, 1, 1),
    (2, 3, 1, 1),
    (360, 480, 192, 256),
]


@pytest.fixture(
    scope="module",
    params=[(), pytest.param(("-march=native", "-ffp-contract=fast"), marks=pytest.mark.slow)],
    ids=["everywhere", "fused"],
)
def preprocess(request, tmp_path_factory):
    """(kind, height, width, resize_to, image) -> status, pixels; in the fused one products may be fused with sums."""
    library = tmp_path_factory.mktemp("runtime") / "preprocessing.so"
    compile_wrapper(library, "-O3", "-shared", "-fPIC", *request.param)
    function = ctypes.CDLL(str(library)).preprocess_image

    def call(kind: int, height: int, width: int, resize_to: int, image: np.ndarray, shape: tuple[int, ...] = ()):
        result = np.full(max(height, 0) * max(width, 0) * 3 + 64, 77, np.uint8)
        pointers = ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(result.ctypes.data)
        status = function(kind, height, width, resize_to, pointers[0], *(shape or image.shape[:2]), pointers[1])
        assert np.all(result[-64:] == 77)  # nothing is written behind it
        return status, result[:-64].reshape(max(height, 0), max(width, 0), 3)

    return call


def compile_wrapper(to: Path, *options: str) -> None:
    command = [COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", *options, str(WRAPPER)]
    subprocess.run([*command, "-o", str(to)], check=True)


def images(height: int, width: int):
    """Noise, and, of sizes that take no second, gradients, and the darkest and brightest bytes."""
    rng = np.random.default_rng(height * 10007 + width)
    yield (noise := rng.integers(0, 256, (height, width, 3), np.uint8))
    if noise.size < 10**7:
        yield smooth(height, width)
        yield rng.choice(np.array([0, 1, 254, 255], np.uint8), noise.shape)


def expect_same(got: tuple[int, np.ndarray], expected: np.ndarray) -> None:
    """Builds of OpenCV for other processors fuse products with sums, which may change a last bit."""
    status, pixels = got
    assert status == 0
    apart = 0 if platform.machine() in ("x86_64", "AMD64") else 1
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), rtol=0, atol=apart)


@pytest.mark.parametrize(("height", "width", "size", "resize_to"), CROPS)
def test_crops(preprocess, height, width, size, resize_to):
    reference = Preprocessing(size, resize_to, *UNIT)
    for image in images(height, width):
        expect_same(preprocess(CROP, size, size, resize_to, image), reference(image))


@pytest.mark.parametrize(("height", "width", "to_height", "to_width"), SIZES)
def test_resized(preprocess, height, width, to_height, to_width):
    reference = ResizedPreprocessing((to_height, to_width), *UNIT)
    for image in images(height, width):
        expect_same(preprocess(RESIZED, to_height, to_width, 0, image), reference(image))


@pytest.mark.parametrize("limit", [6, 40, 250])
def test_sizes_by_chance(preprocess, limit):
    rng = np.random.default_rng(limit)
    for height, width, to_height, to_width in rng.integers(1, limit, (120, 4)).tolist():
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        resized = ResizedPreprocessing((to_height, to_width), *UNIT)(image)
        expect_same(preprocess(RESIZED, to_height, to_width, 0, image), resized)
        crop = Preprocessing(to_height, to_width, *UNIT)(image)
        expect_same(preprocess(CROP, to_height, to_height, to_width, image), crop)


def test_images_of_the_right_size(preprocess):
    image = next(images(5, 7))
    expect_same(preprocess(NONE, 5, 7, 0, image), image)


@pytest.mark.parametrize(
    ("kind", "height", "width", "resize_to", "shape", "status"),
    [
        (NONE, 5, 6, 0, (5, 7), 1),
        (CROP, 5, 6, 8, (5, 7), 1),
        (CROP, 5, 5, 0, (5, 7), 1),
        (CROP, 5, 5, -8, (5, 7), 1),
        (CROP, 5, 5, 2**20 + 1, (5, 7), 2),
        (RESIZED, 0, 5, 0, (5, 7), 1),
        (RESIZED, 5, -5, 0, (5, 7), 1),
        (RESIZED, 5, 5, 0, (0, 7), 1),
        (RESIZED, 5, 5, 0, (7, 0), 1),
        (RESIZED, 1, 2**20 + 1, 0, (5, 7), 2),
        (3, 5, 7, 0, (5, 7), 1),
        (-1, 5, 7, 0, (5, 7), 1),
    ],
)
def test_sizes_that_are_refused(preprocess, kind, height, width, resize_to, shape, status):
    assert preprocess(kind, height, width, resize_to, np.zeros((*shape, 3), np.uint8))[0] == status


@pytest.mark.parametrize(
    ("shape", "status"), [((2**20 + 1, 1), 2), ((2**16, 2**15), 2), ((2**31 - 1, 2**31 - 1), 2), ((-1, 3), 1)]
)
def test_images_that_are_refused(preprocess, shape, status):
    """None of their pixels is read: there is one."""
    assert preprocess(RESIZED, 4, 4, 0, np.zeros((1, 1, 3), np.uint8), shape)[0] == status


@pytest.mark.slow
def test_nothing_outside_of_an_image_is_read(tmp_path):
    program = tmp_path / "preprocessing"
    try:
        compile_wrapper(program, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no sanitizers")
    cases = [(CROP, size, size, resize_to, *shape) for *shape, size, resize_to in CROPS]
    cases += [(RESIZED, *to, 0, height, width) for height, width, *to in SIZES]
    text = "\n".join(" ".join(map(str, case)) for case in cases)
    subprocess.run([program], input=text, text=True, check=True)
