"""Honest timings in turns."""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.console import progress, three_digits
from benchmarks.records import Deadline

# A measurement makes as many calls as fill this time: the clock and the dispatch of one call do not count then.
SAMPLE_SECONDS = 0.02


class Timing(NamedTuple):
    """Seconds per call, nan if it failed; `single` if it was run only once, `absent` if there is nothing to run."""

    seconds: float
    single: bool = False
    absent: bool = False

    def cells(self, baseline: "Timing") -> tuple[str, str]:
        """Milliseconds, and the ratio to the baseline."""
        if math.isnan(self.seconds):
            return "-" if self.absent else "failed", "-"
        ratio = self.seconds / baseline.seconds
        milliseconds = ("~" if self.single else "") + three_digits(1000 * self.seconds)
        return milliseconds, "-" if math.isnan(ratio) else three_digits(ratio) + "x"


def time_in_turns(
    calls: dict[str, Callable], repeats: int, limit: float, deadline: Deadline | None = None
) -> dict[str, Timing]:
    """The median over `repeats` rounds for each of the calls; a single run for those above `limit` seconds.

    After the deadline no further call is made: there is no timing then of a call that was never made, and a median over
    fewer rounds of others.
    """
    timings, counts, samples = {}, {}, {}
    for name, call in calls.items():
        if deadline is not None and deadline.passed:
            break
        try:
            seconds = timed(call, 1)
            if seconds > limit:
                timings[name] = Timing(seconds, single=True)
                continue
            if seconds < 1:
                seconds = timed(call, 1)  # the first call was slowed by page faults and lazy loading
        except jax.errors.JaxRuntimeError as error:
            timings[name] = failure(name, error)
            continue
        counts[name] = max(1, min(1000, round(SAMPLE_SECONDS / seconds)))
        samples[name] = []
    for _ in range(repeats):
        for name, count in counts.items():
            if deadline is None or not deadline.passed:
                samples[name].append(timed(calls[name], count))
    return timings | {name: Timing(statistics.median(values)) for name, values in samples.items() if values}


def timed(call: Callable, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def failure(name: str, error: Exception) -> Timing:
    progress(f"  {name} failed: {str(error).partition(chr(10))[0]}")
    return Timing(math.nan)


def random_array(shape: tuple[int, ...]) -> jax.Array:
    """By NumPy: there is nothing to compile for each new shape."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
