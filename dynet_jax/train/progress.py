"""The progress line that training prints."""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax

from dynet_jax.console import duration


class Progress:
    """The line `step 120/330 36.4% | loss 0.71 | top-1 93.1 | 812 img/s | ETA 1m05s`, whose rate excludes pauses."""

    def __init__(self, total_steps: int, batch_size: int, out=None):
        self._total, self._batch_size, self._out = total_steps, batch_size, out or sys.stdout
        self._silent = jax.process_index() > 0  # only the first of several hosts prints
        self._steps, self._seconds = 0, 0.0
        self._last_step, self._last_time = 0, 0.0
        self._rate = 0.0

    def start(self, step: int) -> None:
        """Starts the clock after this step; what came before was not training."""
        self._last_step, self._last_time = step, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context for work that is not training, such as an evaluation."""
        began = time.perf_counter()
        yield
        self._last_time += time.perf_counter() - began

    def report(
        self, step: int, loss: float, accuracy: str, learning_rate: float, *, completed: int | None = None
    ) -> float:
        """Prints the line for the steps up to `step`. Returns images per second since the last report.

        `completed` is the last step that the devices have finished, if that is a later one: the time until now includes
        it. A report of steps that the last one has timed already repeats its rate.
        """
        now, completed = time.perf_counter(), completed or step
        steps, seconds = completed - self._last_step, max(now - self._last_time, 1e-9)
        if steps > 0:
            self._last_step, self._last_time = completed, now
            self._steps, self._seconds = self._steps + steps, self._seconds + seconds
            self._rate = steps * self._batch_size / seconds
        rate = self._rate
        remaining = (self._total - completed) * self._seconds / max(self._steps, 1)
        self.say(
            f"step {step}/{self._total} {100 * step / self._total:.1f}% | loss {loss:.3f} | {accuracy} | "
            f"lr {learning_rate:.4f} | {rate:.0f} img/s | ETA {duration(remaining)}"
        )
        return rate

    def say(self, line: str) -> None:
        if not self._silent:
            with contextlib.suppress(OSError):  # a full disk or a closed pipe is no reason to stop
                print(line, file=self._out, flush=True)
