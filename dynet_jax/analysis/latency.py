"""The latency of networks on this machine's processor, measured in alternation: the data of Table 2 and Fig. 7."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dynet_jax.analysis.latency_networks import of_width
from dynet_jax.analysis.latency_worker import LatencyWorkers, Ready
from dynet_jax.analysis.runtimes import RUNTIMES, Cell
from dynet_jax.console import duration
from dynet_jax.errors import UserError
from dynet_jax.measure.turns import Turns, quartiles
from dynet_jax.models import create_model
from dynet_jax.models.registry import is_dynamic, model_info

OF_THE_PAPER = ("dy_mobile", "dy_resnet18", "dy_resnet50", "dy_shuffle")

# The time of a cell is limited to about this many seconds, with a minimum of runs: a batch of 128 may take ten seconds.
SECONDS_PER_CELL, FEWEST_RUNS = 20, 5
# Rounding weights to int8 changes logits by a few percent of the largest; a wrong computation changes them by more.
# Int8 maps change the logits of random networks by 10 to 20 %.
LARGEST_DEVIATION, LARGEST_IN_INT8 = 0.1, 0.5
SECONDS_BETWEEN_LINES = 5


class Measurement(NamedTuple):
    """Seconds for a batch, over `runs` runs; nan if it failed, with the reason in `error`.

    deviation: the difference of the logits from those of the network's first cell, relative to the largest; None if
      they cannot be compared, because the runtime has its own weights.
    """

    cell: Cell
    runs: int
    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float
    deviation: float | None = None
    error: str = ""

    @property
    def images_per_second(self) -> float:
        return self.cell.batch / self.median


class Parts(NamedTuple):
    """Seconds per image that the native engine spends in each part of a dynamic network."""

    cell: Cell
    predictors: float
    fusion: float
    convolutions: float
    rest: float


@dataclasses.dataclass(frozen=True)
class LatencyPlan:
    """The cells to measure: all networks and their bases, in all runtimes, at all sizes and batches.

    runtimes: (runtime, numbers), in the order of the tables. runs: number of runs of each cell, after warming up.
    calibration: see `Cell`.
    Raises UserError for a network that is unknown or cannot be built, or an image that is too small.
    """

    networks: Sequence[str]
    runtimes: Sequence[tuple[str, str]]
    threads: Sequence[int]
    image_sizes: Sequence[int]
    batches: Sequence[int] = (1,)
    runs: int = 50
    width: float = 1.0
    calibration: str = ""

    def __post_init__(self):
        for network in self.networks:
            if model_info(network).task != "classification":
                raise UserError(f"{network} is a network for {model_info(network).task}; classifiers are measured")
            for name in with_base(network):
                stride = create_model(name, **of_width(self.width)).stride
                if min(self.image_sizes) < stride:
                    raise UserError(
                        f"images of {min(self.image_sizes)} px are too small for {name}, of stride {stride}"
                    )

    def groups(self) -> list[list[Cell]]:
        """Returns groups of cells that alternate because they are compared: a network and its base at one size."""
        groups = [
            [
                Cell(pair, network, runtime, numbers, threads, size, batch, self.width, self.calibration)
                for network in with_base(pair)
                for runtime, numbers in self.runtimes
                if RUNTIMES.find(runtime).has(network, self.width)
                and not (numbers in RUNTIMES.find(runtime).static_numbers and is_dynamic(create_model(network)))
                for threads in self.threads
            ]
            for pair in self.networks
            for size in self.image_sizes
            for batch in self.batches
        ]
        return [cells for cells in groups if cells]

    @property
    def profiled_size(self) -> int:
        """Returns the size at which parts of networks are profiled: the paper's, if it is among the sizes."""
        return 224 if 224 in self.image_sizes else self.image_sizes[0]


def with_base(network: str) -> list[str]:
    """Returns the network and its registered base, if it has one.

    >>> with_base("dy_mobile"), with_base("mobilenet_v2")
    (['dy_mobile', 'mobilenet_v2'], ['mobilenet_v2'])
    """
    base = model_info(network).base
    return [network, *([base] if base else [])]


def measure(plan: LatencyPlan, say: Callable[[str], None]) -> Iterator[tuple[list[Measurement], list[Parts]]]:
    """Yields the measurements of each group, with the parts of its networks in the native engine.

    say: is called with lines about the progress.
    Raises UserError if a measuring process has ended, for example for lack of memory.
    """
    groups = plan.groups()
    with LatencyWorkers() as workers:
        progress = _Progress([_work(cells) for cells in groups], say)
        for number, cells in enumerate(groups):
            progress.begin(number, f"{cells[0].pair}, {cells[0].image_size} px, batch {cells[0].batch}")
            measured = measure_group(cells, workers, plan.runs, progress)
            working = [m.cell for m in measured if not m.error]
            profiled = [c for c in working if _is_profiled(c) and c.image_size == plan.profiled_size]
            yield measured, [Parts(cell, *workers.profile(cell, plan.runs)) for cell in profiled]


def _work(cells: Sequence[Cell]) -> float:
    """Returns the estimated work of a group: its pixels, and a constant for the preparation."""
    return cells[0].batch * cells[0].image_size ** 2 + 200**2


def _is_profiled(cell: Cell) -> bool:
    return cell.runtime == "native" and cell.batch == 1 and cell.is_dynamic


def measure_group(
    cells: Sequence[Cell], workers: LatencyWorkers, runs: int, progress: Callable[[str, float], None]
) -> list[Measurement]:
    """Prepares all cells, then runs each once per round, so that a drift of the machine affects all equally."""
    ready, failed = {}, {}
    for number, cell in enumerate(cells):
        progress("preparing", number / len(cells) / 4)
        answer = workers.prepare(cell)
        (ready if isinstance(answer, Ready) else failed)[cell] = answer
    deviations = {cell: _deviation(cell, ready) for cell in ready}
    counts = {cell: runs_of(answer.seconds, runs) for cell, answer in ready.items()}

    def after(number: int) -> None:
        progress(f"round {number + 1} of {runs}", 1 / 4 + 3 / 4 * (number + 1) / runs)

    turns = Turns()
    turns.take({cell: functools.partial(workers.time, cell) for cell in ready}, runs, counts=counts, after=after)
    failed |= turns.errors
    return [
        failure(cell, failed[cell]) if cell in failed else summary(cell, turns.times(cell), deviations[cell])
        for cell in cells
    ]


def runs_of(seconds: float, runs: int) -> int:
    """Returns the number of runs of a cell whose run takes this many seconds.

    >>> runs_of(0.01, 50), runs_of(1, 50), runs_of(30, 50), runs_of(30, 2)
    (50, 20, 5, 2)
    """
    return min(runs, max(FEWEST_RUNS, int(SECONDS_PER_CELL / seconds)))


def summary(cell: Cell, samples: Sequence[float], deviation: float | None) -> Measurement:
    """Returns the measurement of a cell from the seconds of its runs; failed if its logits are wrong."""
    if deviation is not None and not deviation < (LARGEST_IN_INT8 if cell.numbers == "int8" else LARGEST_DEVIATION):
        return failure(cell, f"its logits differ by {deviation:.2g} of the largest: it computes a wrong result")
    lower, median, upper = quartiles(samples)
    return Measurement(cell, len(samples), median, min(samples), lower, upper, deviation)


def failure(cell: Cell, error: str) -> Measurement:
    return Measurement(cell, 0, *[math.nan] * 4, error=error)


def _deviation(cell: Cell, ready: dict[Cell, Ready]) -> float | None:
    logits = ready[cell].logits
    if logits is None:
        return None
    first = next(r.logits for c, r in ready.items() if c.network == cell.network and r.logits is not None)
    return float(np.abs(logits - first).max() / np.abs(first).max())


class _Progress:
    """The progress line `2/4 dy_resnet18, 224 px, batch 1 | round 7 of 50 | ETA 3m20s`, every few seconds.

    work: the work of every group, in any unit.
    """

    def __init__(self, work: Sequence[float], say: Callable[[str], None]):
        self._work, self._say = work, say
        self._start = self._last = time.perf_counter()

    def begin(self, group: int, name: str) -> None:
        self._group, self._name = group, name

    def __call__(self, what: str, share: float) -> None:
        """Prints the line if it is due; share: the completed share of this group."""
        now = time.perf_counter()
        done = (sum(self._work[: self._group]) + share * self._work[self._group]) / sum(self._work)
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        eta = f" | ETA {duration((now - self._start) * (1 - done) / done)}" if done > 0 else ""
        self._say(f"{self._group + 1}/{len(self._work)} {self._name} | {what}{eta}")
