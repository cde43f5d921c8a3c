"""Measuring processes, one per number of threads, each pinned to as many cores.

XLA takes its number of threads from the cores that the process may use when it starts, once for all networks. So every
number of threads has its own process, in which all runtimes alternate; the processes alternate too, and a waiting one
is idle. Through the pinning, the other runtimes use the same cores as XLA, whatever their settings are.
"""

import gc
import time
from typing import NamedTuple

import numpy as np

from dynet_jax.analysis.latency_runtimes import native_parts
from dynet_jax.analysis.runtimes import RUNTIMES, Call, Cell, random_images
from dynet_jax.errors import UserError, named
from dynet_jax.machine import cores
from dynet_jax.measure.failures import Ended
from dynet_jax.measure.serve import serve
from dynet_jax.measure.turns import consecutive, timed
from dynet_jax.measure.worker import Worker, Workers

# A cell is run for this long before it is timed, at least once, as if images came one after the other. Its weights are
# then in the caches, as far as they fit, its threads are awake, and work of the previous cell has ended. A cell that
# takes longer than SECONDS_OF_SLOW_CELLS is timed at once.
SECONDS_OF_WARMING, SECONDS_OF_SLOW_CELLS = 0.05, 0.2


class Ready(NamedTuple):
    """A prepared cell: the approximate seconds that it takes, and its logits if they can be compared."""

    seconds: float
    logits: np.ndarray | None


class LatencyWorkers(Workers):
    """The worker processes, one for each number of threads."""

    def __init__(self):
        super().__init__(_start)

    def prepare(self, cell: Cell) -> Ready | str:
        """Returns a prepared cell, or why it failed. All methods raise UserError if the process ends."""
        answer = self._ask("prepare", cell)
        if isinstance(answer, str):
            return answer
        seconds, logits = answer
        return Ready(seconds, None if logits is None else np.array(logits, np.float32))

    def time(self, cell: Cell) -> float:
        """Returns the seconds of one run."""
        return self._ask("time", cell)

    def profile(self, cell: Cell, runs: int) -> list[float]:
        """Returns seconds of the native engine's predictors, fusion, convolutions and the rest."""
        return self._ask("profile", cell, runs=runs)

    def _ask(self, what: str, cell: Cell, **more):
        try:
            return self.ask(cell.threads, {"do": what, "cell": cell, **more})
        except Ended:
            raise UserError(
                f"the process that measured {cell.network} in {cell.runtime} has ended; is there enough memory?"
            ) from None


def _start(threads: int) -> Worker:
    environment = {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    return Worker("dynet_jax.analysis.latency_worker", cores=cores()[:threads], environment=environment)


class Measuring:
    """The state of a measuring process: the compiled programs of the cells of one group."""

    def __init__(self):
        self._ready: dict[Cell, tuple[Call, np.ndarray]] = {}

    def answer(self, question: dict):
        cell = Cell(*question["cell"])
        if question["do"] == "prepare":
            return self._prepare(cell)
        return self.time(cell) if question["do"] == "time" else native_parts(cell, question["runs"])

    def _prepare(self, cell: Cell) -> tuple[float, list | None] | str:
        group = (cell.pair, cell.image_size, cell.batch)
        for old in [old for old in self._ready if (old.pair, old.image_size, old.batch) != group]:
            del self._ready[old]
        gc.enable()
        gc.collect()
        gc.disable()  # no collection in the middle of a run
        images = random_images(cell)
        try:
            call = RUNTIMES.find(cell.runtime).prepare(cell)
            logits = call(images)  # includes allocation, tuning or compilation
            seconds = min(timed(lambda: call(images)) for _ in range(2))
        except Exception as error:  # a runtime may raise anything; the others continue
            return named(error)
        self._ready[cell] = call, images
        return seconds, np.asarray(logits).tolist() if RUNTIMES.find(cell.runtime).shares_weights else None

    def time(self, cell: Cell) -> float:
        call, images = self._ready[cell]
        first, *_ = consecutive(lambda: call(images), SECONDS_OF_WARMING)
        seconds = first if first > SECONDS_OF_SLOW_CELLS else timed(lambda: call(images))
        time.sleep(RUNTIMES.find(cell.runtime).seconds_of_spinning)  # until its threads release the next cell's cores
        return seconds


if __name__ == "__main__":
    serve(Measuring().answer)
