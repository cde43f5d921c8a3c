"""A bucket on loopback: gcp-storage-emulator with preconditions, a count of requests, and faults on demand."""

import collections
import contextlib
import functools
import json
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from http import server
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import Router
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"
FAULTS = ("unavailable", "cut", "lost", "late")


class PreconditionFailed(Exception):
    """An object is of another generation than the request expects."""


class _Storage(Storage):
    """Objects in memory; `expected` is the generation that the request under way asks for, 0 for none."""

    expected: str | None = None

    def _write_config_to_file(self):
        """Of all objects, at every change; nobody reads it."""

    def generation(self, bucket: str, name: str) -> str:
        return self.objects.get(bucket, {}).get(name, {"generation": "0"})["generation"]

    def _check(self, bucket: str, name: str) -> None:
        if self.expected not in (None, self.generation(bucket, name)):
            raise PreconditionFailed

    def create_file(self, bucket_name, file_name, content, file_obj, file_id=None):
        self._check(bucket_name, file_name)
        super().create_file(bucket_name, file_name, content, file_obj, file_id)

    def delete_file(self, bucket_name, file_name):
        self._check(bucket_name, file_name)
        super().delete_file(bucket_name, file_name)


class _Handler(server.BaseHTTPRequestHandler):
    """One request: perhaps a fault, else the emulator's answer."""

    server: "BucketServer"
    _generation: str | None = None

    def setup(self):
        super().setup()
        self.storage = self.server.storage

    def _answer(self):
        owner = self.server
        owner.count(self.command, self.path, int(self.headers.get("Content-Length") or 0))
        fault = owner.before(self)
        time.sleep(owner.seconds)
        if owner.refusal is not None:
            return self._error(*owner.refusal)
        fault = fault or owner.fault()
        if fault == "unavailable":
            return self._error(503, "try again")
        if fault == "cut":  # in the middle of an upload, where it is one
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self._hang_up()
        if fault == "silent":
            return self.rfile.read()  # until the other side has hung up
        if fault == "late":
            time.sleep(1)
        if fault == "lost":  # it is done, and the answer does not arrive
            self.wfile = open(os.devnull, "wb")  # noqa: SIM115
        with owner.lock:
            address = urlparse(self.path)
            query, named = parse_qs(address.query), re.search("/b/[^/]+/o/(.+)", address.path)
            self.storage.expected = query.get("ifGenerationMatch", [None])[0]
            self._generation = self.storage.generation(BUCKET, unquote(named[1])) if named else None
            try:
                if self.command == "GET" and self._generation in query.get("ifGenerationNotMatch", []):
                    self._error(304, "it has not changed")
                else:
                    Router(self).handle(self.command)
            except PreconditionFailed:
                self._error(412, "the object is of another generation")
        return self._hang_up() if fault == "lost" else None

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def end_headers(self):
        if self._generation is not None:
            self.send_header("x-goog-generation", self._generation)
        super().end_headers()

    def _error(self, code: int, message: str) -> None:
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format, *args):
        pass


class BucketServer(server.ThreadingHTTPServer):
    """Serves one bucket. A test changes what it does by setting its attributes.

    Attributes:
      seconds: that every request takes at least.
      share: of the requests that meet one of FAULTS. `coming` and `before` know "silent" too, which is no answer.
      refusal: (status, message) that all requests get instead of an answer.
      coming: the faults that the next requests meet.
      before: is called with each request before it is answered, and may give the fault that it meets.
      requests: how many there were, by method and kind of object.
      received: bytes.
    """

    daemon_threads = True
    request_queue_size = 256  # TensorStore opens many connections at once

    def __init__(self, port: int = 0):
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        super().__init__(("127.0.0.1", port), _Handler)
        self.storage, self.lock = _Storage(use_memory_fs=True), threading.RLock()
        create_bucket(BUCKET, self.storage)
        self._random = random.Random(0)
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self) -> None:
        """Serves without faults from now on, and counts from 0. Stored objects stay."""
        self.seconds, self.share, self.refusal = 0.0, 0.0, None
        self.coming: list[str] = []
        self.before: Callable[[_Handler], str | None] = lambda request: None
        self.requests: collections.Counter = collections.Counter()
        self.received = self.faults = 0

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment with which all libraries of a process use this server."""
        address = f"http://127.0.0.1:{self.server_address[1]}"
        names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
        return {**dict.fromkeys(names, address), "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def count(self, method: str, path: str, size: int) -> None:
        with self.lock:
            kind = "lease" if ".lease" in path else "other"
            self.requests[method, kind] += 1
            self.received += size

    def fault(self) -> str | None:
        with self.lock:
            if self.coming:
                return self.coming.pop(0)
            if self._random.random() >= self.share:
                return None
            self.faults += 1
            return self._random.choice(FAULTS)

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names of the stored objects."""
        return sorted(name for name in self.storage.objects.get(BUCKET, {}) if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        return self.storage.get_file(BUCKET, name)

    def replace(self, name: str, content: bytes) -> None:
        """Stores an object, or another content of one, without a request."""
        with self.lock:
            self.storage.expected = None
            described = _make_object_resource("http://localhost", BUCKET, name, "", str(len(content)))
            self.storage.create_file(BUCKET, name, content, _checksums(content, described))

    def put(self, folder: Path, name: str) -> None:
        """Stores a copy of a folder with its content."""
        for file in filter(Path.is_file, folder.rglob("*")):
            self.replace(f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def remove(self, name: str) -> None:
        with self.lock:
            self.storage.expected = None
            self.storage.delete_file(BUCKET, name)

    def handle_error(self, request, client_address):
        pass  # the other side has hung up


@functools.cache
def bucket_server() -> BucketServer:
    """The server of this process; libraries read its address once in a process."""
    server = BucketServer()
    os.environ.update(server.environment)
    return server
