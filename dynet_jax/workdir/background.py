"""Saving to a bucket beside training: each of Orbax's some hundred requests of a save may take seconds there."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import orbax.checkpoint as ocp


class Background:
    """Runs one function at a time, in a thread that does not keep the process alive."""

    def __init__(self):
        self._last: Future[None] = Future()
        self._last.set_result(None)

    @property
    def is_busy(self) -> bool:
        return not self._last.done()

    def start(self, work: Callable[[], None]) -> None:
        """Call it when the last one is done."""
        self._last = result = Future()

        def run():
            try:
                work()
                result.set_result(None)
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, name="save", daemon=True).start()

    def wait(self) -> None:
        """Waits for the last one, and raises what it has raised, once."""
        last, self._last = self._last, Future()
        self._last.set_result(None)
        last.result()


def guarded_manifest(before_commit: Callable[[], None]) -> ocp.JsonCheckpointHandler:
    """Writes a manifest; Orbax commits no checkpoint on which `before_commit`, called on the first host, raises."""
    handler: Any = ocp.JsonCheckpointHandler()  # Orbax knows no subclasses of it
    handler.finalize = lambda directory: before_commit()  # which is nothing of its own
    return handler


def own_barriers() -> ocp.options.MultiprocessingOptions:
    """Barriers of Orbax's that threads may wait at: without them it asks all devices, in between the steps."""
    return ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())), barrier_sync_key_prefix="bucket"
    )
