"""The work of a process of `benchmarks.throughput`: it compiles and times what it is asked to.

JAX and PyTorch do not share a process well (each has its own pool of memory and its own CUDA libraries), and a crash of
a program should only end its own process. The other side is `benchmarks.throughput_rounds`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from dynet_jax.measure.failures import what_failed
from dynet_jax.measure.turns import calls_that_fill, timed

Call = Callable[[int], None]  # makes that many steps, and waits for the last
WARM_UP = 3  # steps: what is allocated, tuned, compiled or recorded at the first ones


class Programs:
    """The answers to questions about programs: `prepare` compiles the given ones, or says what is wrong with them.

    {"do": "describe"}: the framework and its device.
    {"do": "forget"}: drops all programs.
    {"do": "prepare", "cells": [...]}: compiles these, too; answers {name: what is wrong, or None}.
    {"do": "time", "name": ..., "seconds": ...}: runs that long, at least one step; answers seconds per step.
    """

    def __init__(
        self,
        prepare: Callable[[list[dict]], Iterable[tuple[str, Call | Exception]]],
        describe: Callable[[], dict],
        forget: Callable[[], None] = lambda: None,
    ):
        self._prepare, self._describe, self._forget = prepare, describe, forget
        self._calls: dict[str, Call] = {}

    def answer(self, question: dict) -> Any:
        if question["do"] == "describe":
            return self._describe()
        if question["do"] == "forget":
            self._calls.clear()
            return self._forget()
        if question["do"] == "prepare":
            return {name: self._compile(name, call) for name, call in self._prepare(question["cells"])}
        return _seconds_per_step(self._calls[question["name"]], question["seconds"])

    def _compile(self, name: str, call: Call | Exception) -> str | None:
        try:
            if isinstance(call, Exception):
                raise call
            call(WARM_UP)
            self._calls[name] = call
        except Exception as error:  # one network that does not compile or fit must not end the others
            return what_failed(error)


def _seconds_per_step(call: Call, seconds: float) -> float:
    once = timed(lambda: call(1))
    count = calls_that_fill(seconds, once)
    return timed(lambda: call(count)) / count if count > 1 else once
