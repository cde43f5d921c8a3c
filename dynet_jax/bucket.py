"""Buckets: addresses like gs://BUCKET/PATH, which are paths for the rest of the package.

Orbax, TFDS and this package access objects through `etils.epath` and gcsfs. Operations that have to be exact (leases,
listings, pushed files) use google-cloud-storage. Another kind of store would add its scheme, its path and its errors
here.
"""

import base64
import contextlib
import functools
import hashlib
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynet_jax import pretrained
from dynet_jax.errors import UserError, named, one_line
from dynet_jax.memory import causes

SCHEME = "gs://"
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
CODE = re.compile(r'"code": ?([0-9]{3})\b')  # the status in a bucket's response, where a library passes it on as text
FORBIDDEN = "*?[]#"  # gcsfs interprets them as patterns and generations
SECONDS, REQUEST_SECONDS = 120.0, 30.0  # limits for all attempts of a request, and for one
# Libraries whose exceptions come from the network or the bucket; gcsfs also raises Python's ValueError and OSError.
LIBRARIES = ("google.", "gcsfs.", "aiohttp.", "requests.", "urllib3.")
REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED")
STORAGE_CPP = ("Permanent error", "Retry policy exhausted")  # prefixes of the errors of array_record's client
TENSORSTORE = (*REFUSED, "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")  # the statuses in its errors

# Set before the first etils path: with TensorFlow, etils would access buckets in another way.
os.environ.setdefault("EPATH_USE_TF", "false")
# Before TensorStore makes its first request: it would wait for an answer without an end.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", f"{REQUEST_SECONDS:.0f}")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", f"{REQUEST_SECONDS:.0f}")


def is_bucket(path: Path | str) -> bool:
    """Returns whether a path is in a bucket."""
    return str(path).startswith(SCHEME)


def place(path: Path | str) -> Path:
    """Returns a local or bucket path with the methods of `pathlib.Path`. Raises UserError for another address.

    'pretrained:NAME' is the folder of a network that comes with the package.
    """
    text = str(path)
    if text.startswith(pretrained.SCHEME):
        return pretrained.pretrained_folder(text.removeprefix(pretrained.SCHEME))
    if "://" not in text:
        if text.startswith("gs:/"):  # the form that `pathlib.Path` makes from an address
            raise UserError(f"{text} is not an address; write {SCHEME}BUCKET/PATH, as a text and not as a pathlib.Path")
        return Path(path)
    if not is_bucket(text):
        raise UserError(f"{text} is not a supported address; use {SCHEME}BUCKET/PATH, or mount it as a folder")
    name = text.removeprefix(SCHEME).partition("/")[0]
    if not BUCKET_NAME.fullmatch(name):
        raise UserError(f"{text} names no bucket; an address looks like {SCHEME}my-bucket/runs/digits")
    if ".." in text.split("/") or any(sign in text for sign in FORBIDDEN):
        raise UserError(f"{text}: an address has no '..' and none of {' '.join(FORBIDDEN)}; use another name")
    try:
        from etils import epath
        from google.cloud import storage  # noqa: F401

        from dynet_jax.bucket_files import reach_by
    except ImportError as error:
        raise UserError(f"{text} needs more packages: pip install gcsfs google-cloud-storage") from error
    reach_by(write, REQUEST_SECONDS)
    address: Any = epath.Path(text.rstrip("/"))  # not a `pathlib.Path` by type, but with its methods
    return address


def absolute(path: Path | str) -> Path:
    """Returns an absolute path; an address is always absolute."""
    path = place(path)
    return path if is_bucket(path) else path.absolute()


def key(path: Path | str) -> str:
    """Returns the name of an object within its bucket; '' for the bucket itself."""
    return str(path).removeprefix(SCHEME).partition("/")[2]


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes; 0 if there is none."""
    if is_bucket(path):  # a failed request would make `is_file` return False
        found = handle(path).get_blob(key(path), **patience())
        return found.size if found else 0
    return path.stat().st_size if path.is_file() else 0


@functools.cache
def _client() -> Any:
    from google.cloud import storage

    return storage.Client(project=None)


def handle(path: Path | str) -> Any:
    """Returns google-cloud-storage's object for the bucket of a path."""
    return _client().bucket(str(path).removeprefix(SCHEME).partition("/")[0])


def blob(path: Path | str) -> Any:
    """Returns google-cloud-storage's object for a path, whether it exists or not."""
    return handle(path).blob(key(path))


def patience() -> dict[str, Any]:
    """Returns the arguments of every request: its timeout, and how often and how long it is retried."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": REQUEST_SECONDS, "retry": DEFAULT_RETRY.with_timeout(SECONDS).with_delay(maximum=5)}


def is_folder(path: Path) -> bool:
    """Returns whether anything exists there. Unlike a bucket's `path.is_dir()`, it raises if the request fails."""
    if not is_bucket(path):
        return path.is_dir()
    return any(True for _ in handle(path).list_blobs(prefix=f"{key(path)}/", max_results=1, **patience()))


def write(path: Path | str, content: bytes) -> None:
    """Writes an object, by one request that can be repeated, or by a session where it is large (more than 8 MiB)."""
    from google.api_core.exceptions import NotFound

    target, kind = blob(path), mimetypes.guess_type(str(path))[0] or "application/octet-stream"
    try:
        target.upload_from_string(content, kind, **patience())
    except NotFound:  # the session is gone where the answer to its last request has been lost
        if not _holds(target, content):
            raise


def _holds(target: Any, content: bytes) -> bool:
    """Whether an object is there with that content."""
    found, digest = target.bucket.get_blob(target.name, **patience()), hashlib.md5(content, usedforsecurity=False)
    return found is not None and base64.b64decode(found.md5_hash) == digest.digest()


def move(folder: Path, target: Path) -> None:
    """Moves a folder.

    In a bucket, objects are copied, and then removed starting with the top ones: Orbax's `commit_success.txt` is one of
    them, and without it a checkpoint is not read.
    """
    if not is_bucket(folder):
        folder.rename(target)
        return
    bucket = handle(folder)
    blobs = list(bucket.list_blobs(prefix=f"{key(folder)}/", **patience()))
    for blob in blobs:
        bucket.copy_blob(blob, bucket, f"{key(target)}/{blob.name.removeprefix(f'{key(folder)}/')}", **patience())
    for blob in sorted(blobs, key=lambda blob: blob.name.count("/")):
        _delete(blob)


def remove(folder: Path) -> None:
    """Removes a folder with its content, as far as possible."""
    if not is_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(Exception):
        for blob in handle(folder).list_blobs(prefix=f"{key(folder)}/", **patience()):
            _delete(blob)


def _delete(blob: Any) -> None:
    """An object that is not there has been deleted by a request whose answer was lost."""
    from google.api_core.exceptions import NotFound

    with contextlib.suppress(NotFound):
        blob.delete(**patience())


def is_failure(error: BaseException) -> bool:
    """Returns whether an error is the network's or the bucket's, and so says nothing about the stored data."""
    return any(
        type(cause).__module__.startswith(LIBRARIES)
        or isinstance(cause, (ConnectionError, TimeoutError))  # Python's own, after a request timed out
        or (isinstance(cause, OSError) and str(cause).startswith("Forbidden"))
        or any(f"{word}:" in str(cause) for word in TENSORSTORE)
        or str(cause).startswith(STORAGE_CPP)
        for cause in causes(error)
    )


class Refused(UserError):
    """An error: the bucket denies access, so nothing is known to be wrong with its content."""


class Unreachable(Refused):
    """An error: the network or the bucket is unreachable; nothing is wrong with the request, so it can be repeated."""

    exit_code = 75


def unless_failed(error: Exception, path: Path | str) -> OSError:
    """Returns the error of an unreadable record. Raises UserError if the record is not the cause."""
    if is_bucket(path) and is_failure(error):
        raise explained(error, path) from error
    return OSError(one_line(error, limit=300))


@contextlib.contextmanager
def told(path: Path | str) -> Iterator[None]:
    """A context that turns a failure of a path's bucket into a one-line message that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not (is_bucket(path) and is_failure(error)):
            raise
        raise explained(error, path) from error


def check_access(path: Path | str) -> None:
    """Requests the bucket itself, as Orbax does. Raises UserError if it does not exist or access is denied."""
    if is_bucket(path):
        with told(path):
            handle(path).reload(**patience())


def is_away(error: BaseException) -> bool:
    """Returns whether a failure is temporary."""
    return is_failure(error) and _cure(error, SCHEME) is None


def explained(error: BaseException, path: Path | str) -> UserError:
    """Returns the error for a failure, with advice unless the user can only wait."""
    cure = _cure(error, path)
    if cure is not None:
        return Refused(f"{path}: {cure}")
    return Unreachable(f"{path}: the bucket cannot be reached ({named(error)}); run the same command again when it can")


def _is_refused_login(error: BaseException) -> bool:
    """Returns whether a login was rejected, not an error of transport or one that asks for a retry."""
    if not type(error).__module__.startswith("google.auth"):
        return False
    return type(error).__name__ != "TransportError" and not getattr(error, "retryable", False)


def _cure(error: BaseException, path: Path | str) -> str | None:
    name, text = str(path).removeprefix(SCHEME).partition("/")[0], " ".join(map(str, causes(error)))
    codes = {getattr(cause, "code", None) for cause in causes(error)} | set(map(int, CODE.findall(text)))
    if any(_is_refused_login(cause) for cause in causes(error)) or 401 in codes or "UNAUTHENTICATED" in text:
        return (
            f"nobody is logged in, or the credentials have expired ({named(error)}); use "
            "`gcloud auth application-default login`, or the service account of the machine"
        )
    if 403 in codes or "Forbidden" in text or "PERMISSION_DENIED" in text:
        return (
            f"permission is missing ({named(error)}); the account needs roles/storage.objectUser and, for "
            f"storage.buckets.get, roles/storage.legacyBucketReader on the bucket {name}"
        )
    if 404 in codes:
        return f"there is no bucket {name}; create it by `gcloud storage buckets create {SCHEME}{name}`"
    if 429 in codes or "RESOURCE_EXHAUSTED" in text or "quota" in text.lower():
        return f"a quota of the bucket or the project is exhausted ({named(error)}); raise it, or make room"
    return None
