"""What a process of a benchmark does: it is told by JSON lines what to compile and to time.

JAX and PyTorch do not share a process well (each has its own pool of memory and its own libraries of CUDA), and a
program that crashes ends its process alone. The other side is `benchmarks.workers`.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.records import first_line

Call = Callable[[int], None]  # makes that many steps, and waits for the last
WARM_UP = 3  # steps: what is allocated, tuned, compiled or recorded at the first ones


class Programs:
    """Answers questions about programs: `prepare` compiles those it is given, or says what is wrong with them.

    {"do": "describe"}: what the framework is and runs on.
    {"do": "forget"}: all programs there are.
    {"do": "prepare", "cells": [...]}: compile these, too; {name: seconds, or an error}.
    {"do": "time", "name": ..., "seconds": ...}: so long, at least one step; seconds per step.
    """

    def __init__(
        self,
        prepare: Callable[[list[dict]], Iterable[tuple[str, Call | Exception]]],
        describe: Callable[[], dict],
        forget: Callable[[], None] = lambda: None,
    ):
        self._prepare, self._describe, self._forget = prepare, describe, forget
        self._calls: dict[str, Call] = {}

    def answer(self, question: dict) -> dict:
        if question["do"] == "describe":
            return self._describe()
        if question["do"] == "forget":
            self._calls.clear()
            self._forget()
            return {}
        if question["do"] == "prepare":
            return self._compile(question["cells"])
        return _time(self._calls[question["name"]], question["seconds"])

    def _compile(self, cells: list[dict]) -> dict[str, Any]:
        answer, start = {}, time.perf_counter()
        for name, call in self._prepare(cells):
            try:
                if isinstance(call, Exception):
                    raise call
                call(WARM_UP)
                self._calls[name] = call
                answer[name] = time.perf_counter() - start
            except Exception as error:  # one network that does not compile or fit must not end the others
                answer[name] = first_line(error)
            start = time.perf_counter()
        return answer


def serve(answer: Callable[[dict], dict]) -> None:
    """Answer questions from stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like; answers are ours alone
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


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
