"""The barrier between the hosts of a save, at which a host whose part has failed reports it instead of staying away."""

import contextlib
import itertools
import sys
from typing import Any

import jax
from jax._src import distributed  # the key-value store that `jax.distributed` starts has no public name
from orbax.checkpoint import multihost

from dynet_jax.errors import named

WRITTEN, COMMITTED = "async_write_complete", "async_commit_complete"  # parts of the keys of Orbax's two barriers
OK = "ok"
_attempts = itertools.count()  # equal on all hosts, because they save the same steps


class SaveBarrier:
    """The function for `orbax.checkpoint.AsyncOptions(barrier_sync_fn=...)`.

    At Orbax's own barrier, hosts that have written their part wait for 20 minutes for a host whose disk is full. Here
    every host leaves a message, and a failure ends the save for all, so that no incomplete checkpoint is committed.
    """

    def __init__(self):
        self._attempt = -1  # not the number of a save: a single host may read a folder with its own object

    def next_save(self) -> None:
        """Prepares the next save; call it before each save, on every host."""
        self._attempt = next(_attempts)

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Waits for all hosts. Raises RuntimeError with the reason of the first host that failed."""
        phase = next((phase for phase in (WRITTEN, COMMITTED) if phase in key), None)
        if phase is None:
            error = sys.exception()
            if error is not None:  # after a failed save, Orbax waits for the others once more
                self.failed(named(error))
            multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)
            return
        self._say(phase, OK)
        client: Any = distributed.global_state.client
        for host in range(jax.process_count()):
            said = client.blocking_key_value_get(self._key(phase, host), timeout_ms)
            if said != OK:
                raise RuntimeError(f"on host {host}: {said}")

    def failed(self, reason: str) -> None:
        """Reports that this host's part of the save has failed, so that the others do not wait for it."""
        if jax.process_count() > 1:
            for phase in (WRITTEN, COMMITTED):
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # this host has already passed this phase
                    self._say(phase, reason)

    def _say(self, phase: str, word: str) -> None:
        client: Any = distributed.global_state.client
        client.key_value_set(self._key(phase, jax.process_index()), word)

    def _key(self, phase: str, host: int) -> str:
        return f"dynet_jax/save/{self._attempt}/{phase}/{host}"
