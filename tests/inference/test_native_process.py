"""The native engine and the process that it is in: threads, forks, copies, memory that runs out."""

import concurrent.futures
import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.inference.operations import one_convolution
from tests.inference.test_native import engine, in_both, pixels
from tests.inference.test_programs import needs_compiler

pytestmark = needs_compiler
ROOT = Path(__file__).parents[2]
BEFORE = """
import os, resource, signal
import numpy as np
from dynet_jax.errors import UserError
from tests.inference.operations import one_convolution
from tests.inference.test_native import engine, pixels
program = one_convolution(True, "strides")
"""


def alone(script):
    """Runs it in a process of its own; what it prints."""
    command = [sys.executable, "-c", BEFORE + script]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_denormals_are_left_to_the_process():
    """Of the engine's own arithmetic they are zeros, and of nothing else, neither before it runs nor after."""
    script = """
native, small = engine(program), np.full(1000, 1e-40, np.float32)
print((small * np.float32(1.5) > small).all())
native(pixels(1, 9, 9)), native(pixels(5, 9, 9))
print((small * np.float32(1.5) > small).all())
"""
    assert alone(script) == ["True", "True"]


@pytest.mark.slow
def test_a_fork():
    """It has none of the threads: neither of those that work, nor of one that is in the middle of a call."""
    script = """
import threading
native, few, many = engine(program), pixels(1, 9, 9), pixels(5, 9, 9)
wanted = native(few), native(many)
busy = threading.Thread(target=lambda: [native(few) for _ in range(20_000)])
busy.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = np.array_equal(native(few), wanted[0]) and np.array_equal(native(many), wanted[1])
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(60)
            del native  # of the other process
            os._exit(0)
        signal.alarm(60)
        same = same and os.waitpid(grandchild, 0)[1] == 0
        del native
        os._exit(0 if same else 1)
    print(os.waitpid(child, 0)[1])
print(busy.is_alive())
busy.join()
print(np.array_equal(native(many), wanted[1]))
"""
    assert alone(script) == ["0"] * 5 + ["True"] * 2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
def test_too_little_memory():
    """In the thread that calls and in others; then all is as before."""
    script = """
def limit(megabytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 1_000_000, resource.RLIM_INFINITY))
def attempt(what):
    try:
        what()
        print("done")
    except UserError as error:
        print(error)
native, few, many = engine(program), pixels(1, 9, 9), pixels(5, 9, 9)
wanted = native(few), native(many)
large, several = np.zeros((1, 4000, 4000, 3), np.uint8), np.zeros((4, 2000, 2000, 3), np.uint8)
limit(100)
attempt(lambda: native(large))
attempt(lambda: native(several))
attempt(lambda: native.profile(large))
print(np.array_equal(native(few), wanted[0]), np.array_equal(native(many), wanted[1]))
attempt(lambda: engine(program, threads=500))
print(np.array_equal(native(few), wanted[0]), np.array_equal(native(many), wanted[1]))
"""
    one, batch, profile, *same, threads, again = alone(script)
    assert one == profile == "there is not enough memory for images of 4000x4000"
    assert batch == "there is not enough memory for images of 2000x2000"
    assert threads in (
        "there is not enough memory",
        "the system has no threads for this model; use fewer",
    )
    assert [*same, again] == ["True True"] * 2


@in_both
def test_copies_are_built_anew(arithmetic):
    native, images = engine(one_convolution(True, "depthwise", outputs=4), arithmetic), pixels(2, 9, 9)
    wanted = native(images)
    copies = [copy.copy(native), copy.deepcopy(native), pickle.loads(pickle.dumps(native))]
    del native
    for again in copies:
        np.testing.assert_array_equal(again(images), wanted)


def test_threads_that_call_at_once():
    native = engine(one_convolution(True, "groups"))
    images = [pixels(batch, 20 + batch, 30) for batch in (1, 2, 3, 4, 5)]
    wanted = [native(batch) for batch in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: native(images[i % 5]), range(200)))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, wanted[i % 5])


def test_more_sizes_than_are_remembered():
    native, images = engine(one_convolution(True, "groups")), pixels(5, 80, 90)
    wanted = native(images)
    for width in range(1, 90):
        np.testing.assert_array_equal(native(images[:, :, :width])[:1], native(images[:1, :, :width]))
    np.testing.assert_array_equal(native(images), wanted)


@in_both
def test_an_empty_batch(arithmetic):
    assert engine(one_convolution(True, "groups"), arithmetic)(pixels(0, 9, 9)).shape == (0, 5)
