"""Exclusive use of a work directory by the run that writes to it, and the place of files that grow.

Files cannot grow in a bucket. There, metrics, events and curves are written to a local copy, which is pushed before a
checkpoint counts as saved, and at the end. The metrics of a checkpoint are therefore never missing.
"""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO, Protocol

from dynet_jax import bucket
from dynet_jax.console import warn
from dynet_jax.errors import UserError, named
from dynet_jax.workdir.files import lock
from dynet_jax.workdir.lease import Lease
from dynet_jax.workdir.metrics import METRICS_FILE


class Holding(Protocol):
    """The exclusive use of a work directory by a run, on each of its hosts."""

    files: Path  # the folder for files that grow

    def check(self) -> None:
        """Raises UserError if this run must not continue. It is cheap enough to be called after every step."""

    def before_commit(self) -> None:
        """Raises an exception if a checkpoint that has been written must not count as saved."""

    def close(self) -> bool:
        """Releases the work directory. Returns whether all files that have grown are in it."""


def lock_workdir(workdir: Path) -> IO | Lease:
    """Returns a lock against other runs, until it is closed. Raises UserError if another run is using the directory."""
    if not bucket.is_bucket(workdir):
        return lock(workdir)
    return Lease(workdir, f"another run is using {workdir}; wait until it has ended, or use another --workdir")


def hold(workdir: Path, held: IO | Lease | None) -> Holding:
    """Returns the holding for the result of `lock_workdir` on the first host, or for None on the others."""
    if not bucket.is_bucket(workdir):
        return _Local(workdir, held)
    return _Remote(workdir, held if isinstance(held, Lease) else None)


class _Local:
    def __init__(self, workdir: Path, held: IO | Lease | None):
        self.files, self._held = workdir, held

    def check(self) -> None:
        pass

    def before_commit(self) -> None:
        pass

    def close(self) -> bool:
        if self._held is not None:
            self._held.close()
        return True


class _Remote:
    def __init__(self, workdir: Path, lease: Lease | None):
        self._workdir, self._lease = workdir, lease
        self.files = Path(tempfile.mkdtemp(prefix="dynet_jax-"))
        self._pushed: dict[Path, tuple[int, int]] = {}
        self._pushing = threading.Lock()
        try:
            with bucket.told(workdir):
                self._pull()
        except BaseException:
            shutil.rmtree(self.files, ignore_errors=True)
            raise

    def _pull(self) -> None:
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            content = bucket.blob(self._workdir / METRICS_FILE).download_as_bytes(**bucket.patience())
            (self.files / METRICS_FILE).write_bytes(content)
            self._pushed[self.files / METRICS_FILE] = _state(self.files / METRICS_FILE)

    def check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def before_commit(self) -> None:
        if self._lease is not None:
            self._lease.renew()  # before the push: if another run has taken over, the files belong to it
            self._push()
            self._lease.renew()  # after the push: only one small object is written after this

    def _push(self) -> None:
        with self._pushing:
            for file in sorted(self.files.rglob("*")):
                if file.is_file() and self._pushed.get(file) != (state := _state(file)):
                    bucket.write(self._workdir / file.relative_to(self.files).as_posix(), file.read_bytes())
                    self._pushed[file] = state

    def close(self) -> bool:
        """Pushes new content, unless the lease is lost. A warning names files that could not be pushed."""
        sent = False
        try:
            if self._lease is not None:
                self._lease.renew()
                self._push()
            sent = True
        except UserError:
            pass  # the lease is lost: the files are those of another run
        except Exception as error:
            warn(f"metrics and curves could not be sent to {self._workdir} ({named(error)}); they are in {self.files}")
            return False
        finally:
            if self._lease is not None:
                self._lease.close()
        shutil.rmtree(self.files, ignore_errors=True)
        return sent


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
