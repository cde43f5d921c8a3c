"""The rounds of `benchmarks.throughput`: all networks of both frameworks in alternation."""

import argparse
import functools
import statistics

from benchmarks.throughput_cells import Cell, frame, torch_names
from dynet_jax.console import say
from dynet_jax.measure.failures import Deadline, Ended, Failure, OutOfTime, Raised
from dynet_jax.measure.records import Records
from dynet_jax.measure.turns import Turns
from dynet_jax.measure.worker import Workers

MODULE = "benchmarks.throughput_{}"
STARTING = 120.0  # seconds for a framework to be loaded


class Rounds:
    """The processes and their measurements: seconds per step in every round, or the failure."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.deadline, self.records = options, Deadline(options.limit), Records(options.jsonl)
        self.turns = Turns(self.deadline, say)
        self._ready: set[Cell] = set()  # compiled in their framework's process
        self._frameworks: list[str] = []
        self._workers = Workers(limit=options.cell_limit, deadline=self.deadline)

    def start(self) -> dict[str, str]:
        """Returns a description of each framework; one that does not start (a broken installation) is left out.

        Raises ValueError if they run on different kinds of devices.
        """
        described, kinds = {}, {}
        for framework in self.options.frameworks:
            try:
                answer = self._ask(framework, {"do": "describe"}, STARTING)
            except OutOfTime:
                answer = {"is": f"{framework}: no time was left", "runs_on": "nothing"}
            except Failure as error:
                say(f"{framework} does not start: {error}; its rows are left out")
                continue
            described[framework], kinds[framework] = answer["is"], answer["runs_on"]
        if len(set(kinds.values())) > 1:
            on = ", ".join(f"{framework} on {kind}" for framework, kind in kinds.items())
            raise ValueError(f"nothing is compared: {on}; `make env-gpu` installs both for CUDA")
        self._frameworks = list(described)
        return described

    def close(self) -> None:
        self._workers.close()

    def measure(self, cells: list[Cell]) -> None:
        """Measures one pass of one family at one batch."""
        try:
            for framework in self._frameworks:
                self._prepare_together(framework, [cell for cell in cells if cell.subject.framework == framework])
            total = self.options.rounds
            samples = {cell: functools.partial(self._time, cell) for cell in cells}
            self.turns.take(samples, total, after=lambda number: say(f"round {number + 1} of {total}"))
        except OutOfTime:
            pass
        if self.deadline.passed:
            say(f"the limit of {self.options.limit:.0f} s is reached")
        for cell in cells:
            self.records.add(**self.row(cell))

    def _prepare_together(self, framework: str, cells: list[Cell]) -> None:
        """Prepares cells together; if the process ends, timing them one by one finds the cause."""
        after = self.options.limit - self.deadline.left
        say(f"compiling {len(cells)} programs of {framework}, after {after:.0f} s")
        self._ready -= {cell for cell in self._ready if cell.subject.framework == framework}
        try:
            self._ask(framework, {"do": "forget"})
            for cell, error in self._prepare(framework, cells).items():
                self.turns.fail(cell, Raised(error))
        except Failure as error:
            say(f"  together they ended the process ({error}): one by one then")

    def _prepare(self, framework: str, cells: list[Cell]) -> dict[Cell, str]:
        """Compiles cells. Returns the failures of those that cannot be compiled."""
        question = {"do": "prepare", "cells": [self._question(cell) for cell in cells]}
        answer = self._ask(framework, question, self.options.cell_limit * len(cells))
        self._ready |= {cell for cell in cells if answer[str(cell)] is None}
        return {cell: answer[str(cell)] for cell in cells if cell not in self._ready}

    def _time(self, cell: Cell) -> float:
        """Returns the seconds per step."""
        framework = cell.subject.framework
        if cell not in self._ready:
            for error in self._prepare(framework, [cell]).values():
                raise Raised(error)
        return self._ask(framework, {"do": "time", "name": str(cell), "seconds": self.options.seconds})

    def _ask(self, framework: str, question: dict, limit: float | None = None):
        try:
            return self._workers.ask(MODULE.format(framework), question, limit)
        except Ended:
            self._ready -= {cell for cell in self._ready if cell.subject.framework == framework}
            raise

    def _question(self, cell: Cell) -> dict:
        options = self.options
        question = {key: getattr(options, key) for key in ("image_size", "width", "dtype", "small", "compile")}
        question |= {"name": str(cell), "network": cell.subject.network, "batch": cell.batch, "pass": cell.which}
        question["form"] = cell.subject.form
        if cell.subject.framework == "torch":
            question |= {"frame": frame(options.width), **torch_names(cell.subject.network)}
        return question

    def row(self, cell: Cell) -> dict:
        subject = cell.subject
        row = {"network": subject.network, "framework": subject.framework, "batch": cell.batch, "pass": cell.which}
        row["form"] = subject.form
        rates = [cell.batch / seconds for seconds in self.turns.times(cell)]
        if not rates:
            return row | {"error": self.turns.errors.get(cell, "no time was left")}
        row |= {"images_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
        others = {"twin": cell.beside(subject.twin), "base": cell.beside(subject.base)}
        others["pytorch"] = cell.beside(subject.base, "torch")
        # Of rates: above 1 is faster than the other.
        ratios = {f"of_{name}": self.turns.ratios(other, cell) for name, other in others.items() if other != cell}
        return row | {name: statistics.median(values) for name, values in ratios.items() if values}
