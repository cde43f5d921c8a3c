"""Worker processes that answer questions, with one line of JSON in each direction; they run `dynet_jax.measure.serve`.

A worker that crashes, or does not answer in time, fails only the current question, and is restarted for the next one.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import IO, Any, Self

from dynet_jax.measure.failures import Deadline, Ended, OutOfTime, Raised

ENDING_SECONDS = 10


class Worker:
    """A process `python -m MODULE` that calls `serve`; as a context it ends the process.

    Args:
      arguments: of its command line.
      cores: the cores that it may use from its first instruction on; empty for all, or if pinning is not supported.
      environment: additional environment variables. stderr: as in `subprocess.Popen`.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        cores: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        stderr: int | IO | None = None,
    ):
        with _pinned(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                bufsize=1,
                text=True,
                errors="replace",
                start_new_session=True,  # the terminal's Ctrl-C is for this process, which ends the workers
            )
        self._answers: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: dict, seconds: float | None = None) -> Any:
        """Returns the answer.

        Raises Raised if the question failed, and Ended if the process ended; no further question is answered then.
        seconds: time limit; None for none.
        """
        self._write(question)
        try:
            answer = self._answers.get(timeout=None if seconds is None else max(0.1, seconds))
        except queue.Empty:
            self.kill()
            raise Ended(f"over {seconds:.0f} s") from None
        if answer is None:
            self._answers.put(None)  # so that later questions fail in the same way
            status = self._process.wait()
            raise Ended(f"died: signal {-status}" if status < 0 else f"died: exit status {status}", status)
        if "raised" in answer:
            raise Raised(answer["raised"])
        return answer["answer"]

    def terminate(self) -> None:
        """Asks the process to save and exit."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Ends the process; it has ended when this returns."""
        with contextlib.suppress(OSError):  # unread input
            self._process.stdin.close()  # pyrefly: ignore[missing-attribute]  (a pipe)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        self._process.kill()
        self._process.wait()

    def _write(self, question: dict) -> None:
        line = json.dumps(question) + "\n"
        with contextlib.suppress(OSError, ValueError):  # a process that has ended is detected by its output
            self._process.stdin.write(line)  # pyrefly: ignore[missing-attribute]  (a pipe)

    def _listen(self) -> None:
        with self._process.stdout as lines:  # pyrefly: ignore[bad-context-manager]  (a pipe)
            for line in lines:
                with contextlib.suppress(ValueError):  # output from before it serves
                    answer = json.loads(line)
                    if isinstance(answer, dict) and ("answer" in answer or "raised" in answer):
                        self._answers.put(answer)
        self._answers.put(None)


@contextlib.contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """A context in which started processes are restricted to these cores, and so is one thread of this process."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Workers:
    """Processes by key, each started at its first question; as a context it ends them.

    start: starts the process of a key; by default the key is a module.
    limit: seconds for one question, unless the question sets its own. deadline: for all together.
    """

    def __init__(
        self,
        start: Callable[[Any], Worker] | None = None,
        *,
        limit: float | None = None,
        deadline: Deadline | None = None,
    ):
        self._start: Callable[[Any], Worker] = start or Worker
        self._limit, self._deadline = limit, deadline or Deadline()
        self._workers: dict[Hashable, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getitem__(self, key: Hashable) -> Worker:
        if key not in self._workers:
            self._workers[key] = self._start(key)
        return self._workers[key]

    def ask(self, key: Hashable, question: dict, limit: float | None = None) -> Any:
        """Returns the answer of a key's process. Raises Raised, Ended and OutOfTime."""
        if self._deadline.passed:
            raise OutOfTime
        seconds = min(limit or self._limit or math.inf, self._deadline.left)
        try:
            return self[key].ask(question, None if seconds == math.inf else seconds)
        except Ended:
            self._workers.pop(key).close()
            if self._deadline.passed:
                raise OutOfTime from None
            raise

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
