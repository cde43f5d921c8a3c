"""The entries of a table of alternating calls."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.console import three_digits
from dynet_jax.console import say
from dynet_jax.measure import turns
from dynet_jax.measure.failures import Deadline


class Timing(NamedTuple):
    """Seconds per call, nan if it failed; `single` if it was run only once, `absent` if there is nothing to run."""

    seconds: float
    single: bool = False
    absent: bool = False
    error: str = ""

    def cells(self, baseline: "Timing") -> tuple[str, str]:
        """Returns milliseconds, and the ratio to the baseline."""
        if math.isnan(self.seconds):
            return "-" if self.absent else "failed", "-"
        ratio = self.seconds / baseline.seconds
        milliseconds = ("~" if self.single else "") + three_digits(1000 * self.seconds)
        return milliseconds, "-" if math.isnan(ratio) else three_digits(ratio) + "x"


def time_in_turns(
    calls: dict[str, Callable], repeats: int, limit: float, deadline: Deadline | None = None
) -> dict[str, Timing]:
    """Returns the median over `repeats` rounds for each of JAX's calls; a single run for those above `limit` seconds.

    After the deadline no call is made, so a call that had no turn has no timing.
    """
    found = turns.time_in_turns(calls, repeats, limit, deadline, wait=jax.block_until_ready, say=say)
    names = [name for name in calls if name in found.errors or found.times(name)]
    return {name: Timing(found.median(name), name in found.single, error=found.errors.get(name, "")) for name in names}


def random_array(shape: tuple[int, ...]) -> jax.Array:
    """Returns normal numbers, drawn by NumPy, which needs no compilation for each new shape."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
