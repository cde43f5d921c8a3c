"""Background saves to a bucket, where each of the hundred requests that Orbax makes for a save may take seconds."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import orbax.checkpoint as ocp


class Background:
    """A runner of one function at a time, in a thread that does not keep the process alive."""

    def __init__(self):
        self._last: Future[None] = Future()
        self._last.set_result(None)

    @property
    def is_busy(self) -> bool:
        return not self._last.done()

    def start(self, work: Callable[[], None]) -> None:
        """Starts a function; call it when the last one is done."""
        self._last = result = Future()

        def run():
            try:
                work()
                result.set_result(None)
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, name="save", daemon=True).start()

    def wait(self) -> None:
        """Waits for the last function, and raises its exception, once."""
        last, self._last = self._last, Future()
        self._last.set_result(None)
        last.result()


def guarded_manifest(before_commit: Callable[[], None]) -> ocp.JsonCheckpointHandler:
    """Returns a handler of manifests; if `before_commit` raises, on the first host, Orbax commits no checkpoint."""
    handler: Any = ocp.JsonCheckpointHandler()  # Orbax does not accept subclasses
    handler.finalize = lambda directory: before_commit()  # the original does nothing
    return handler


def own_barriers() -> ocp.options.MultiprocessingOptions:
    """Returns options for barriers that threads may use; Orbax's default would involve all devices between steps."""
    return ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())), barrier_sync_key_prefix="bucket"
    )
