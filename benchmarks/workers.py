"""Processes that take turns on one accelerator, asked by JSON lines: `benchmarks.worker` is what they run.

One that dies, or does not answer in time, costs what it was asked for, and is started again for the next question.
"""

import json
import queue
import subprocess
import sys
import threading

from benchmarks.records import Deadline


class Ended(Exception):
    """The process has ended, or was ended as it did not answer; what it had compiled is lost."""


class OutOfTime(Exception):
    """The limit of the whole command has been reached; nothing is wrong with what was asked for."""


class Worker:
    """A process `python -m MODULE` that calls `serve`."""

    def __init__(self, module: str):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def ask(self, question: dict, seconds: float) -> dict:
        """Raises Ended."""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=max(0.1, seconds))
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            raise Ended(f"over {seconds:.0f} s") from None
        if not line:
            raise Ended(_how_it_ended(self._process.wait()))
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _how_it_ended(status: int) -> str:
    return f"died: signal {-status}" if status < 0 else f"died: exit status {status}"


class Workers:
    """One process for each module, started when it is asked for something.

    limit: seconds that one question may take, if it does not say so itself.
    """

    def __init__(self, limit: float, deadline: Deadline):
        self._limit, self._deadline = limit, deadline
        self._workers: dict[str, Worker] = {}

    def ask(self, module: str, question: dict, limit: float | None = None) -> dict:
        """Raises Ended and OutOfTime."""
        if self._deadline.passed:
            raise OutOfTime
        if module not in self._workers:
            self._workers[module] = Worker(module)
        try:
            return self._workers[module].ask(question, min(limit or self._limit, self._deadline.left))
        except Ended:
            self._workers.pop(module).close()
            if self._deadline.passed:
                raise OutOfTime from None
            raise

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
