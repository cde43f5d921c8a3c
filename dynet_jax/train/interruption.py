"""Signals, and the agreement of several processes on the step at which to stop."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np

from dynet_jax.devices import Layout

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.05


class Interruption:
    """A handler of signals: the first SIGTERM or Ctrl-C requests a checkpoint and an exit, the second ends at once.

    Signals reach the main thread alone: in any other thread none is caught, and `stop` asks the run to leave.

    Args:
      stop: set by anyone to ask the run to save and leave; None if only signals do.
      ends_process: whether the second signal ends the process without an exception, which works in the middle of a
        compilation too. Otherwise the handlers from before `train` answer it, as a notebook's kernel does by
        KeyboardInterrupt.
    """

    def __init__(self, stop: threading.Event | None = None, *, ends_process: bool = False):
        self._stop, self._ends_process = stop, ends_process
        self._signalled, self._previous = False, {}

    @property
    def seen(self) -> bool:
        """Returns whether the run has been asked to leave."""
        return self._signalled or (self._stop is not None and self._stop.is_set())

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number, frame):
        self._signalled = True
        if self._ends_process:
            for other in SIGNALS:
                signal.signal(other, signal.SIG_DFL)
        else:
            self._restore()
        # os.write instead of print, because a signal may interrupt a print.
        os.write(2, b"stopping after the current step; send the signal again to stop at once, without saving\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def __exit__(self, *exception):
        self._restore()


class StopVote:
    """The decision whether the run should stop: a signal to one process stops all processes after the same step.

    With several processes the vote travels with the batches: every device adds its host's vote to the sums of a step,
    and a sum is read LAG steps later, when it is available without waiting. With one process it is the signal itself.
    """

    LAG = 2

    def __init__(self, interruption: Interruption, layout: Layout):
        self._interruption, self._layout = interruption, layout
        self.alone = jax.process_count() == 1
        self._sums: deque[jax.Array] = deque()
        self._stop = False

    def attach(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the batch with this host's vote as 'stop' [devices] int32."""
        if self.alone:
            return batch
        vote = np.full(len(self._layout.mesh.local_devices), self._interruption.seen, np.int32)
        return {**batch, "stop": jax.make_array_from_process_local_data(self._layout.batch_sharding, vote)}

    def count(self, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the sums of a step without the votes."""
        sums = dict(sums)
        if "stop" in sums:
            self._sums.append(sums.pop("stop"))
        return sums

    @property
    def decided(self) -> bool:
        """Returns whether to stop; every host must read it at the same places."""
        if self.alone:
            return self._interruption.seen
        while len(self._sums) > self.LAG:
            self._stop |= int(self._sums.popleft()) > 0
        return self._stop

    def run(self, *slow: Callable[[], T]) -> Sequence[T] | None:
        """Returns the results of slow functions that run in parallel; None if a signal came before they were done.

        They then continue in the background, so the process has to exit without waiting for them (`os._exit`). With
        several processes a signal is answered only at the end, because the others could not know about it.
        """
        results: list = [None] * len(slow)
        errors: list[BaseException] = []

        def work(index):
            try:
                results[index] = slow[index]()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(slow))]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # only the main thread sees signals, and only while it runs Python
                thread.join(POLL_SECONDS)
                if self.alone and self._interruption.seen:
                    return None
        if errors:
            raise errors[0]
        return results
