"""The lock of a work directory in a bucket: an object that its owner renews, and that others may take if it expires.

Every write names the generation of the object that it replaces, so only one of two runs succeeds. No clock of another
machine is trusted: a waiting run checks whether the object changes.
"""

import contextlib
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from dynet_jax import bucket
from dynet_jax.console import say
from dynet_jax.errors import UserError

LEASE_FILE = ".lease"
RENEW_SECONDS, EXPIRY_SECONDS, POLL_SECONDS = 15.0, 60.0, 2.0


class Holder(NamedTuple):
    """The owner of a lease: the run, its machine and process, and the generation of the object that records it."""

    generation: int
    run: str
    machine: str
    process: str


class Lease:
    """An exclusive lease on a work directory, until it is closed or its owner has been silent for EXPIRY_SECONDS."""

    def __init__(self, workdir: Path, busy: str):
        """Raises UserError with the message `busy` if another run holds it. Waits if that run may have died."""
        self._workdir, self._run = workdir, uuid.uuid4().hex
        self._generation, self._lost = 0, False
        self._writing, self._closed = threading.Lock(), threading.Event()
        with bucket.told(workdir):
            self._acquire(busy)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _acquire(self, busy: str) -> None:
        first, since = None, time.monotonic()
        while True:
            asked = time.monotonic()
            holder = self._look()
            since += time.monotonic() - asked  # if the bucket does not answer, the other run cannot be heard either
            if holder is None:
                if self._write(0):
                    return
                continue
            alive = _is_alive(holder)
            if alive or (first is not None and holder.generation != first):
                raise UserError(busy)
            if alive is None and first is None:
                first, since = holder.generation, time.monotonic()
                say(f"another run has used {self._workdir}; checking for {EXPIRY_SECONDS:.0f} s whether it is alive")
            if alive is False or time.monotonic() - since >= EXPIRY_SECONDS:
                if self._write(holder.generation):
                    return
                raise UserError(busy)  # a third run was faster
            time.sleep(POLL_SECONDS)

    def renew(self) -> None:
        """Renews the lease. Raises UserError, now and in all later calls, if another run has taken it."""
        with self._writing:
            if self._closed.is_set():
                raise UserError(f"this run has released {self._workdir}")
            if self._lost or not self._write(self._generation):
                self._lost = True
        self.check()

    def check(self) -> None:
        """Raises UserError if the lease is known to be lost, without a request."""
        if self._lost:
            raise UserError(
                f"another run has taken over {self._workdir} while this one could not reach it; this run stops and "
                "writes nothing more there"
            )

    def close(self) -> None:
        """Releases the lease, so that the next run can start at once."""
        self._closed.set()
        with self._writing, contextlib.suppress(Exception):  # it expires by itself
            if not self._lost:
                self._blob().delete(if_generation_match=self._generation, **bucket.patience())

    def _keep(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # the bucket is unreachable; `check` reports a lost lease
                self.renew()

    def _blob(self) -> Any:
        return bucket.blob(self._workdir / LEASE_FILE)

    def _look(self) -> Holder | None:
        found = bucket.handle(self._workdir).get_blob(self._blob().name, **bucket.patience())
        if found is None:
            return None
        said = found.metadata or {}
        return Holder(found.generation, *(said.get(name, "") for name in Holder._fields[1:]))

    def _write(self, expected: int) -> bool:
        """Returns whether this run now owns the object, after replacing the generation `expected`, 0 for none."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._blob()
        blob.metadata = {"run": self._run, "machine": _machine(), "process": _process(os.getpid())}
        try:
            blob.upload_from_string(b"", if_generation_match=expected, **bucket.patience())
            self._generation = blob.generation
            return True
        except (PreconditionFailed, NotFound) as error:
            if isinstance(error, NotFound) and not expected:
                raise  # there is no such bucket
            holder = self._look()  # the write may have succeeded although its response was lost
            if holder is None or holder.run != self._run:
                return False
            self._generation = holder.generation
            return True


def _machine() -> str:
    """Returns an identifier of this machine, since its start, and of its process numbers; '' if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process(number: int) -> str:
    """Returns a process's number and start time; '' if it does not exist, or is a zombie."""
    try:
        words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else f"{number} {words[19]}"


def _is_alive(holder: Holder) -> bool | None:
    """Returns whether the holder's process is alive; None if this cannot be known from this machine."""
    if not holder.machine or holder.machine != _machine() or not holder.process:
        return None
    return _process(int(holder.process.split()[0])) == holder.process
