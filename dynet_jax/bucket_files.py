"""How Orbax, TFDS and this package reach files of a bucket: by gcsfs, and where it fails when answers are lost.

It opens a session for every file that it writes. Where the answer to the last request of it is lost on its way, the
session is gone when that request is repeated, and the file, which is there, counts as not written.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import aiohttp
import fsspec.config
import gcsfs

SCHEMES = ("gs", "gcs")


class FileSystem(gcsfs.GCSFileSystem):  # pyrefly: ignore[invalid-inheritance]  (the environment says which one it is)
    """gcsfs, that writes through the function which `reach_by` is given."""

    write_object: Callable[[str, bytes], None]

    def _open(self, path, mode="rb", **options):
        if "r" in mode:
            return super()._open(path, mode, **options)
        return _WholeFile(f"gs://{path}", FileSystem.write_object)

    async def _isdir(self, path):
        """Returns whether a folder is there; raises for a failure, which gcsfs takes for no."""
        try:
            return (await self._info(path))["type"] == "directory"
        except FileNotFoundError:
            return False

    def rm(self, path, **options):
        """Removes objects. A missing one is no error: a request whose answer was lost may have removed it."""
        with contextlib.suppress(FileNotFoundError):
            super().rm(path, **options)


class _WholeFile(io.BytesIO):
    """Is written when it is closed; not at all where an exception ends its `with` block."""

    def __init__(self, address: str, write: Callable[[str, bytes], None]):
        super().__init__()
        self._address, self._write = address, write

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()  # first: a failure is not tried again when the file is forgotten
            self._write(self._address, content)

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        if exc_type is not None:
            super().close()
        self.close()


def reach_by(write: Callable[[str, bytes], None], seconds: float) -> None:
    """Lets libraries that open files in buckets write them by `write`, called with an address and the content.

    seconds: for how long an answer is waited for. A request that has none by then is repeated, like a failed one.
    """
    FileSystem.write_object = staticmethod(write)
    for scheme in SCHEMES:
        fsspec.register_implementation(scheme, FileSystem, clobber=True)
        own = fsspec.config.conf.setdefault(scheme, {})
        # A listing that is kept hides what other hosts write, for as long as the process lives.
        own["use_listings_cache"] = False
        # A limit for the whole request, as a number would be, is an error that gcsfs does not repeat.
        own["requests_timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
