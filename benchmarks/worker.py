"""Processes that take turns on one accelerator: a framework in each, told by JSON lines what to time.

JAX and PyTorch do not share a process well: each has its own pool of memory and its own libraries of CUDA.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.records import first_line

Call = Callable[[int], None]  # makes that many steps, and waits for the last


class Ended(Exception):
    """The worker has ended, or does not answer."""


class Worker:
    """A process `python -m MODULE` that calls `serve`."""

    def __init__(self, module: str, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
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
            raise Ended(f"no answer in {seconds:.0f} s") from None
        if not line:
            raise Ended(f"the process ended (exit status {self._process.wait()})")
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve(prepare: Callable[[list[dict]], Iterable[tuple[str, Call | Exception]]], describe: Callable[[], str]) -> None:
    """Answer questions from stdin until it ends.

    {"do": "describe"}: what the framework is and runs on.
    {"do": "prepare", "cells": [...]}: compile these, and forget those before; {name: seconds, or an error}.
    {"do": "time", "name": ..., "seconds": ...}: so long, at least one step; seconds per step.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like; answers are ours alone
    calls: dict[str, Call] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "describe":
            answer = {"is": describe()}
        elif question["do"] == "prepare":
            calls.clear()
            answer = _prepare(prepare, question["cells"], calls)
        else:
            answer = _time(calls[question["name"]], question["seconds"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _prepare(prepare, cells, calls) -> dict[str, Any]:
    answer, start = {}, time.perf_counter()
    for name, call in prepare(cells):
        try:
            if isinstance(call, Exception):
                raise call
            call(1)  # what is allocated, tuned or compiled at the first step
            calls[name] = call
            answer[name] = time.perf_counter() - start
        except Exception as error:  # one network that does not compile or fit must not end the others
            answer[name] = first_line(error)
        start = time.perf_counter()
    return answer


def _time(call, seconds) -> dict[str, Any]:
    try:
        once = _timed(call, 1)
        count = max(1, min(1000, round(seconds / once)))
        return {"seconds": _timed(call, count) if count > 1 else once}
    except Exception as error:
        return {"error": first_line(error)}


def _timed(call, count) -> float:
    start = time.perf_counter()
    call(count)
    return (time.perf_counter() - start) / count
