"""Processes that measure, one for each number of threads, each pinned to as many cores.

XLA takes its number of threads from the cores that the process may use when it starts, once for all networks. So every
number of threads has a process of its own, in which all runtimes take turns; the processes take turns too, and one
that waits for its turn does nothing. Pinned, the other runtimes have the same cores as XLA, whatever they are told.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynet_jax.analysis.latency_runtimes import RUNTIMES, Call, Cell, native_parts, random_images
from dynet_jax.errors import UserError, named
from dynet_jax.machine import cores

# A cell is run for so long before it is timed, at least once, as if one image came after the other: its weights are in
# the caches then, as far as they fit, its threads are awake, and nothing of whose turn was before is still running.
# What takes longer than SECONDS_OF_SLOW_CELLS is timed at once.
SECONDS_OF_WARMING, SECONDS_OF_SLOW_CELLS = 0.05, 0.2
ENDING_SECONDS = 10


class Ready(NamedTuple):
    """A cell that can be timed: about how many seconds it takes, and its logits if they can be compared."""

    seconds: float
    logits: np.ndarray | None


class Workers:
    """A process for each number of threads; they have ended when the context is left."""

    def __init__(self, threads: Sequence[int]):
        self._threads, self._connections, self._processes = threads, {}, []

    def __enter__(self) -> "Workers":
        context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
        for threads in self._threads:
            self._connections[threads], theirs = context.Pipe()
            self._processes.append(context.Process(target=_serve, args=(theirs, threads), daemon=True))
            self._processes[-1].start()
            theirs.close()  # so that the end of the process is the end of what can be read
        return self

    def __exit__(self, *_) -> None:
        for connection in self._connections.values():
            connection.close()
        for process in self._processes:  # ending takes them a while, in which nothing else should be timed
            process.join(timeout=ENDING_SECONDS)

    def ask(self, cell: Cell, what: str, *arguments):
        """The answer of the process that has the cell's number of threads.

        what: 'prepare' gives a `Ready`, or why it cannot; 'time' the seconds of one run; 'profile' with a number of
        runs the seconds of the native engine's predictors, fusion, convolutions and the rest.
        Raises UserError if the process has ended.
        """
        connection = self._connections[cell.threads]
        try:
            connection.send((what, cell, *arguments))
            answer = connection.recv()
        except (EOFError, OSError):
            raise UserError(
                f"the process that measured {cell.network} in {cell.runtime} has ended; is there enough memory?"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(connection, threads: int) -> None:
    """Answer questions until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    os.dup2(2, 1)  # the output is the report; what libraries print goes elsewhere
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import jax

    jax.config.update("jax_platforms", "cpu")
    ready: dict[Cell, tuple[Call, np.ndarray]] = {}
    answers = {"prepare": _prepare, "time": _time, "profile": _profile}
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, cell, *arguments = connection.recv()
            try:
                answer = answers[what](ready, cell, *arguments)
            except Exception as error:
                answer = error
            connection.send(answer)


def _prepare(ready: dict[Cell, tuple[Call, np.ndarray]], cell: Cell) -> Ready | str:
    group = (cell.pair, cell.image_size, cell.batch)
    for old in [old for old in ready if (old.pair, old.image_size, old.batch) != group]:
        del ready[old]
    gc.enable()
    gc.collect()
    gc.disable()  # not in the middle of a run
    images = random_images(cell)
    try:
        call = RUNTIMES[cell.runtime].prepare(cell)
        logits = call(images)  # what is allocated, tuned or compiled at the first run
        seconds = min(_timed(call, images) for _ in range(2))
    except Exception as error:  # one that fails, by whatever a runtime raises, does not end the others
        return named(error)
    ready[cell] = call, images
    return Ready(seconds, np.array(logits) if RUNTIMES[cell.runtime].shares_weights else None)


def _time(ready: dict[Cell, tuple[Call, np.ndarray]], cell: Cell) -> float:
    seconds = _time_warm(*ready[cell])
    time.sleep(RUNTIMES[cell.runtime].seconds_of_spinning)  # its threads have the cores that the next one gets
    return seconds


def _time_warm(call: Call, images: np.ndarray) -> float:
    start = time.perf_counter()
    first = _timed(call, images)
    if first > SECONDS_OF_SLOW_CELLS:
        return first
    while time.perf_counter() - start < SECONDS_OF_WARMING:
        _timed(call, images)
    return _timed(call, images)


def _profile(_, cell: Cell, runs: int) -> tuple[float, ...]:
    return native_parts(cell, runs)


def _timed(call: Call, images: np.ndarray) -> float:
    start = time.perf_counter()
    call(images)
    return time.perf_counter() - start
