"""Worker processes make the batches of threads, name the same corrupt images, and never outlive the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynet_jax.data import CorruptImages
from dynet_jax.data.cache import CachedSource
from dynet_jax.errors import UserError
from tests.data.test_corrupt import AUGMENT, Files, assert_same, evaluate, train

pytestmark = pytest.mark.slow  # a process takes seconds to start

SOURCE = Files(50, junk={7, 8, 30}, unreadable={12})


@pytest.mark.parametrize(("workers", "threads", "hosts"), [(1, 2, 1), (3, 1, 1), (2, 2, 2)])
def test_workers_make_no_difference_in_training(workers, threads, hosts, capsys):
    options = {"transform": AUGMENT, "count": 5, "start_step": 3, "hosts": hosts, "host": hosts - 1}
    expected = train(SOURCE, **options)
    reported = capsys.readouterr().err
    assert_same(train(SOURCE, workers=workers, threads=threads, **options), expected)
    assert capsys.readouterr().err == reported
    assert reported.count("\n") > 1


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_make_no_difference_in_evaluation(workers, capsys):
    """7 batches are a multiple of neither."""
    expected = evaluate(SOURCE)
    reported = capsys.readouterr().err
    assert_same(evaluate(CachedSource(SOURCE), workers=workers), expected)
    assert capsys.readouterr().err == reported


def test_the_limit_counts_over_all_workers():
    with pytest.raises(UserError) as expected:
        train(SOURCE, corrupt=CorruptImages(limit=2))
    with pytest.raises(UserError) as caught:
        train(SOURCE, corrupt=CorruptImages(limit=2), workers=2)
    assert str(caught.value) == str(expected.value)
    assert str(caught.value).endswith("corrupt images: 3, more than --config.data.max_corrupt=2")


# A program with two workers, which prints their process ids and then does what a test wants.
PROGRAM = """
import multiprocessing, signal, sys, time
from dynet_jax.data import load_source, training_batches
from dynet_jax.data.augment import make_training_transform

if __name__ == "__main__":
    digits, transform = load_source("digits", "train"), make_training_transform(8, "none", flip=False)
    batches = training_batches(digits, transform, batch_size=16, seed=0, start_step=0, threads=2, workers=2)
    next(batches), next(batches)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    {then}
"""


def start(path: Path, then: str) -> tuple[subprocess.Popen, list[int]]:
    (path / "program.py").write_text(PROGRAM.format(then=then))
    # The root of this checkout: the program lies elsewhere.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, str(path / "program.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2, process.stderr.read()[-2000:]
    return process, workers


def gone(pid: int) -> bool:
    """Ended, if perhaps not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux's /proc")


@needs_proc
@pytest.mark.parametrize(
    ("then", "code"),
    [("sys.exit(3)", 3), ("raise KeyError('a mistake')", 1), ("batches.close(); sys.exit(4)", 4)],
    ids=["exit", "exception", "close"],
)
def test_they_end_with_the_program(tmp_path, then, code):
    process, workers = start(tmp_path, then)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert all(map(gone, workers))


@needs_proc
def test_they_end_when_the_program_is_killed(tmp_path):
    process, workers = start(tmp_path, "time.sleep(100)")
    assert not any(map(gone, workers))
    process.kill()
    deadline = time.monotonic() + 10
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(map(gone, workers))
    process.communicate()


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_left_to_the_program(tmp_path, number):
    """They reach the whole group; a loop that has seen one goes on to the end of its step, and may ask for batches."""
    then = "for s in (2, 15): signal.signal(s, lambda *_: [next(batches) for _ in range(20)] and sys.exit(75))\n"
    process, workers = start(tmp_path, then + "    print('ready', flush=True)\n    time.sleep(100)")
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert all(map(gone, workers))
