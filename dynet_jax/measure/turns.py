"""Timing of alternating calls, so that a drift of the machine affects all of them equally."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.measure.failures import Deadline, OutOfTime, what_failed

# A sample of `time_in_turns` has as many calls as fill this time, so the overhead of clock and dispatch is negligible.
SAMPLE_SECONDS = 0.02


def timed(call: Callable[[], Any], count: int = 1, wait: Callable[[Any], Any] | None = None) -> float:
    """Returns the seconds per call of `count` calls. wait: waits for the last result, if a call is asynchronous."""
    start = time.perf_counter()
    for _ in range(count):
        result = call()
    if wait is not None:
        wait(result)  # pyrefly: ignore[unbound-name]  (there is a call)
    return (time.perf_counter() - start) / count


def consecutive(call: Callable[[], Any], seconds: float, least: int = 1) -> list[float]:
    """Returns the seconds of each consecutive call, for at least `seconds` in total and at least `least` calls.

    In this time caches fill, threads wake up, and earlier work comes to its end.
    """
    begin, times = time.perf_counter(), []
    while time.perf_counter() - begin < seconds or len(times) < least:
        times.append(timed(call))
    return times


def calls_that_fill(seconds: float, once: float) -> int:
    """Returns how many calls of `once` seconds fill the given time; 1 to 1000.

    >>> calls_that_fill(1.0, 0.1), calls_that_fill(1.0, 5.0), calls_that_fill(1.0, 1e-6)
    (10, 1, 1000)
    """
    return max(1, min(1000, round(seconds / once)))


def takes_part(number: int, count: int, rounds: int) -> bool:
    """Returns whether an item with `count` turns, spread evenly over all rounds, has one in this round.

    >>> [number for number in range(10) if takes_part(number, 4, 10)]
    [2, 4, 7, 9]
    """
    return (number + 1) * count // rounds > number * count // rounds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile.

    >>> quartiles([1, 2, 3, 4, 5])
    (2.0, 3.0, 4.0)
    """
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return lower, median, upper


class Turns:
    """The times of calls that alternate.

    Attributes:
      seconds: {name: {round: seconds}}. errors: {name: failure}; those names have no further turns.
      single: the names of calls that are too slow for more than one run.
    Args:
      deadline: no call is made after it. say: is called with a message about each failure.
    """

    def __init__(self, deadline: Deadline | None = None, say: Callable[[str], None] = lambda line: None):
        self.seconds: dict[Hashable, dict[int, float]] = {}
        self.errors: dict[Hashable, str] = {}
        self.single: set[Hashable] = set()
        self.deadline, self._say = deadline or Deadline(), say

    def take(
        self,
        samples: Mapping[Any, Callable[[], float]],
        rounds: int,
        *,
        counts: Mapping[Any, int] | None = None,
        after: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Takes a sample of each name in every round, in alternating order, so no name always follows the same one.

        samples: {name: a function that measures and returns seconds}. A name whose function raises has failed and has
          no further turns, except that a UserError, which concerns all of them, is raised here.
        counts: numbers of turns of names that do not have one in every round. after: is called after every round.
        """
        for number in range(rounds):
            for name in list(samples)[:: -1 if number % 2 else 1]:
                if name in self.errors or not takes_part(number, (counts or {}).get(name, rounds), rounds):
                    continue
                if self.deadline.passed:
                    return
                try:
                    self.seconds.setdefault(name, {})[number] = samples[name]()
                except OutOfTime:
                    return
                except UserError:
                    raise
                except Exception as error:
                    self.fail(name, error)
            after(number)

    def fail(self, name: Hashable, error: Exception) -> None:
        self.errors[name] = what_failed(error)
        self._say(f"  {name} failed: {self.errors[name]}")

    def times(self, name: Hashable) -> list[float]:
        """Returns the seconds of each turn; none for a name that has failed or was not measured."""
        return [] if name in self.errors else list(self.seconds.get(name, {}).values())

    def median(self, name: Hashable) -> float:
        """Returns the median in seconds; nan if there are no times."""
        return statistics.median(self.times(name) or [math.nan])

    def ratios(self, name: Hashable, other: Hashable) -> list[float]:
        """Returns the ratios of seconds in every round in which both had a turn; none if one has failed."""
        if name in self.errors or other in self.errors:
            return []
        others = self.seconds.get(other, {})
        return [seconds / others[n] for n, seconds in self.seconds.get(name, {}).items() if n in others]


def time_in_turns(
    calls: Mapping[Any, Callable[[], Any]],
    rounds: int,
    once_above: float,
    deadline: Deadline | None = None,
    wait: Callable[[Any], Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Turns:
    """Times alternating calls: in a round, each is repeated until it fills a time that a clock measures well.

    Calls above `once_above` seconds are run once. No call is made after the deadline: a call without a turn then has no
    time, and others have fewer rounds. wait: as in `timed`.
    """
    once = {name: functools.partial(timed, call, 1, wait) for name, call in calls.items()}
    first, turns = Turns(deadline, say), Turns(deadline, say)
    first.take(once, 1)
    slow = {name for name in first.seconds if first.median(name) > once_above}
    # The first call is slowed by page faults and lazy loading, which is negligible for a call of a second.
    first.take({name: call for name, call in once.items() if name not in slow and first.median(name) < 1}, 1)
    turns.seconds, turns.single, turns.errors = {name: first.seconds[name] for name in slow}, slow, first.errors
    counts = {name: calls_that_fill(SAMPLE_SECONDS, first.median(name)) for name in first.seconds if first.times(name)}
    turns.take({n: functools.partial(timed, calls[n], counts[n], wait) for n in counts if n not in slow}, rounds)
    return turns
