"""Models in a process: wrong input, threads, many models, and a process without JAX."""

import concurrent.futures
import copy
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.inference.program import Convolution, Dense, Mean, Program, Value
from dynet_runtime.library import ARGUMENT, levels, load_library
from tests.inference.networks import images
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import PREPROCESSING, content, without_preprocessing

pytestmark = needs_compiler
ROOT = Path(__file__).parents[2]


def test_wrong_input(tmp_path):
    model = dynet_runtime.load(content("dy_mobile"))
    for given, message in (
        (np.zeros((8, 8), np.uint8), r"a picture must be \[height, width, 3\] uint8, not \(8, 8\) uint8"),
        (np.zeros((8, 8, 3), np.float32), r"must be \[height, width, 3\] uint8, not \(8, 8, 3\) float32"),
        (np.zeros((0, 8, 3), np.uint8), "must be"),
    ):
        with pytest.raises(dynet_runtime.Error, match=message):
            model(given)
    with pytest.raises(dynet_runtime.Error, match=r"images must be \[batch, height, width, 3\], not \(8, 8, 3\)"):
        model.logits(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(dynet_runtime.Error, match="images of 0x9 are too small for this network"):
        model.logits(np.zeros((1, 0, 9, 3), np.uint8))
    with pytest.raises(dynet_runtime.Error, match="sides of images must be at most 32768"):
        model.logits(np.zeros((1, 1, 40000, 3), np.uint8))
    for threads in (-1, 5000):
        with pytest.raises(dynet_runtime.Error, match="threads must be from 0 to 1024"):
            dynet_runtime.load(content("dy_mobile"), threads=threads)
    with pytest.raises(dynet_runtime.Error, match=r"none\.dynet cannot be read: No such file or directory"):
        dynet_runtime.load(tmp_path / "none.dynet")
    with pytest.raises(dynet_runtime.Error, match="cannot be read: Is a directory"):
        dynet_runtime.load(tmp_path)
    assert model.logits(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 5)
    for image in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64, 3))):
        with pytest.raises(dynet_runtime.Error, match="a picture must be"):
            model.profile(image)


def test_a_network_for_segmentation_has_no_top_classes():
    model = dynet_runtime.load(content("fcn_dy_mobile"), threads=1)
    assert model.is_segmentation
    assert model(np.zeros((64, 64, 3), np.uint8)).ndim == 3
    with pytest.raises(dynet_runtime.Error, match="this network is for segmentation"):
        model.top(np.zeros((64, 64, 3), np.uint8))


def test_a_model_is_not_copied():
    model = dynet_runtime.load(content("dy_mobile"), threads=1)
    for make in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            make(model)


def test_arguments_that_are_not_there():
    """From C: an error with a line for what is null, and for pictures whose preprocessing is unknown."""
    library, model = load_library(), dynet_runtime.load(without_preprocessing(content("dy_mobile")), threads=1)
    classify = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 2, ctypes.c_void_p)(
        ("dynet_classify", library)
    )
    picture, numbers = np.zeros((9, 9, 3), np.uint8), np.zeros(5, np.float32)
    to, at = numbers.ctypes.data, picture.ctypes.data
    for status, message in (
        (lambda: classify(model._model, at, 9, 9, to), "the file does not say how pictures are preprocessed"),
        (lambda: classify(None, at, 9, 9, to), "there is no model"),
        (lambda: library.dynet_run(None, at, 1, 9, 9, to, 5), "there is no model"),
        (lambda: library.dynet_run(model._model, None, 1, 9, 9, to, 5), "there are no images"),
        (lambda: library.dynet_run(model._model, at, 1, 9, 9, to, 4), "there is no room for all logits"),
        (lambda: library.dynet_output_shape(model._model, 64, 64, None), "no place for the shape"),
        (lambda: library.dynet_preprocess(None, at, 9, 9, to), "there is no model"),
        (lambda: library.dynet_profile(model._model, None, 9, 9, to), "there is no image"),
        (lambda: library.dynet_load(None, 0, None), "there is no path"),
    ):
        assert status() == ARGUMENT
        assert message in library.dynet_last_error().decode()


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(dynet_runtime.Error, match="pipe cannot be read: Invalid argument"):
        dynet_runtime.load(tmp_path / "pipe")


def test_threads_with_one_model_and_many_models():
    models = [dynet_runtime.load(content(name), threads=2) for name in ("dy_mobile", "dy_shuffle", "dy_mobile")]
    wanted = [model.logits(images(1)) for model in models]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = [(i % 3, pool.submit(models[i % 3].logits, images(1))) for i in range(60)]
    for which, result in results:
        np.testing.assert_array_equal(result.result(), wanted[which])


def test_a_model_outlives_the_bytes_that_it_was_made_of_and_its_file(tmp_path):
    (tmp_path / "x.dynet").write_bytes(content("dy_mobile"))
    mapped, copied = dynet_runtime.load(tmp_path / "x.dynet"), dynet_runtime.load(bytearray(content("dy_mobile")))
    (tmp_path / "x.dynet").unlink()
    np.testing.assert_array_equal(mapped.logits(images(1)), copied.logits(images(1)))


@pytest.mark.slow
def test_very_many_groups():
    """The number of blocks times that of their parts is more than 32 bits hold."""
    channels, size, taps = 140_000, 16, 5
    none = np.zeros(channels, np.float32)
    wide = Convolution("wide", 0, 1, np.ones((1, 1, 3, channels), np.float32), none)
    kernel = np.ones((taps, taps, 1, channels), np.float32)
    deep = Convolution("deep", 1, 2, kernel, none, feature_group_count=channels)
    some = np.linspace(0, channels - 1, 50).astype(int)
    chosen = np.zeros((channels, len(some)), np.float32)
    chosen[some, range(len(some))] = 1
    last = Mean("mean", 2, 3, False), Dense("logits", 3, 4, chosen, np.zeros(len(some), np.float32))
    values = {i: Value("map", channels if i else 3) for i in range(3)} | {
        3: Value("vector", channels),
        4: Value("vector", len(some)),
    }
    file = write_file(Program((wide, deep, *last), 4, values), Numbers(), PREPROCESSING)[0]
    pixels = np.full((1, size, size, 3), 100, np.uint8)
    inside = (size * taps - 6) / size  # taps of a row that are within the map, on average
    wanted = ((100 - np.array(PREPROCESSING.mean)) / PREPROCESSING.std).sum() * inside**2
    logits = dynet_runtime.load(file, threads=2).logits(pixels)
    np.testing.assert_allclose(logits, np.full((1, len(some)), wanted), rtol=1e-5)


@pytest.mark.slow
def test_a_process_without_jax(tmp_path):
    """Only NumPy is imported; a fork can use the model that it was given."""
    (tmp_path / "x.dynet").write_bytes(content("dy_mobile"))
    script = """
import os, sys
import numpy as np
import dynet_runtime
assert not {"jax", "flax", "dynet_jax"} & set(sys.modules), sys.modules
model, pixels = dynet_runtime.load(sys.argv[1], 2), np.full((1, 64, 64, 3), 77, np.uint8)
wanted = model.logits(pixels)
child = os.fork()
if child == 0:
    os._exit(int(not np.array_equal(model.logits(pixels), wanted)))
assert os.waitpid(child, 0)[1] == 0
print(np.isfinite(wanted).all())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "x.dynet")]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_a_level_that_is_not_there(monkeypatch):
    monkeypatch.setenv("DYNET_LEVEL", "avx1024")
    with pytest.raises(dynet_runtime.Error, match=f"DYNET_LEVEL=avx1024 is none of .*: {', '.join(levels())}"):
        dynet_runtime.load(content("dy_mobile"))
