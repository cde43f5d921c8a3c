"""The rounds of `benchmarks.throughput`: every network of both frameworks, one after another, again and again."""

import argparse
import statistics

from benchmarks.console import progress
from benchmarks.records import Deadline, Records
from benchmarks.throughput_cells import Cell, frame
from benchmarks.workers import Ended, OutOfTime, Workers

MODULE = "benchmarks.throughput_{}"
STARTING = 120.0  # seconds for a framework to be loaded


class Rounds:
    """The processes, and what they have measured: seconds per step of every round, or what went wrong."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.deadline, self.records = options, Deadline(options.limit), Records(options.jsonl)
        self.seconds: dict[Cell, list[float]] = {}
        self.errors: dict[Cell, str] = {}
        self._ready: set[Cell] = set()  # compiled in their framework's process
        self._frameworks: list[str] = []
        self._workers = Workers(options.cell_limit, self.deadline)

    def start(self) -> dict[str, str]:
        """What each framework is; one that does not start (a broken installation) is left out.

        Raises ValueError if they run on different kinds of devices.
        """
        described, kinds = {}, {}
        for framework in self.options.frameworks:
            try:
                answer = self._ask(framework, {"do": "describe"}, STARTING)
            except OutOfTime:
                answer = {"is": f"{framework}: no time was left", "runs_on": "nothing"}
            except Ended as error:
                progress(f"{framework} does not start: {error}; its rows are left out")
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
        """One pass of one family at one batch."""
        try:
            for framework in self._frameworks:
                self._prepare_together(framework, [cell for cell in cells if cell.subject.framework == framework])
            for round_ in range(self.options.rounds):
                progress(f"round {round_ + 1} of {self.options.rounds}")
                for cell in cells:
                    if cell not in self.errors:
                        self._time(cell)
        except OutOfTime:
            progress(f"the limit of {self.options.limit:.0f} s is reached")
        for cell in cells:
            self.records.add(**self.row(cell))

    def _prepare_together(self, framework: str, cells: list[Cell]) -> None:
        """If the process ends of it, which of them did it is found out one by one, when they are timed."""
        after = self.options.limit - self.deadline.left
        progress(f"compiling {len(cells)} programs of {framework}, after {after:.0f} s")
        self._ready -= {cell for cell in self._ready if cell.subject.framework == framework}
        try:
            self._ask(framework, {"do": "forget"})
            self._prepare(framework, cells)
        except Ended as error:
            progress(f"  together they ended the process ({error}): one by one then")

    def _prepare(self, framework: str, cells: list[Cell]) -> None:
        question = {"do": "prepare", "cells": [self._question(cell) for cell in cells]}
        answer = self._ask(framework, question, self.options.cell_limit * len(cells))
        for cell in cells:
            if isinstance(answer[str(cell)], str):
                self._fail(cell, answer[str(cell)])
            else:
                self._ready.add(cell)

    def _time(self, cell: Cell) -> None:
        framework = cell.subject.framework
        try:
            if cell not in self._ready:
                self._prepare(framework, [cell])
            if cell in self.errors:
                return
            question = {"do": "time", "name": str(cell), "seconds": self.options.seconds}
            answer = self._ask(framework, question)
        except Ended as error:
            answer = {"error": str(error)}
        if "error" in answer:
            self._fail(cell, answer["error"])
        else:
            self.seconds.setdefault(cell, []).append(answer["seconds"])

    def _ask(self, framework: str, question: dict, limit: float | None = None) -> dict:
        try:
            return self._workers.ask(MODULE.format(framework), question, limit)
        except Ended:
            self._ready -= {cell for cell in self._ready if cell.subject.framework == framework}
            raise

    def _fail(self, cell: Cell, error: str) -> None:
        self.errors[cell] = error
        progress(f"  {cell}: {error}")

    def _question(self, cell: Cell) -> dict:
        options = self.options
        question = {key: getattr(options, key) for key in ("image_size", "width", "dtype", "small", "compile")}
        question |= {"name": str(cell), "network": cell.subject.network, "batch": cell.batch, "pass": cell.which}
        return question | ({"frame": frame(options.width)} if cell.subject.framework == "torch" else {})

    def row(self, cell: Cell) -> dict:
        subject = cell.subject
        row = {"network": subject.network, "framework": subject.framework, "batch": cell.batch, "pass": cell.which}
        if cell in self.errors or cell not in self.seconds:
            return row | {"error": self.errors.get(cell, "no time was left")}
        rates = [cell.batch / seconds for seconds in self.seconds[cell]]
        row |= {"images_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
        others = {"twin": cell.beside(subject.twin), "base": cell.beside(subject.base)}
        others["pytorch"] = cell.beside(subject.base, "torch")
        ratios = {f"of_{name}": self._ratio(cell, other) for name, other in others.items() if other != cell}
        return row | {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _ratio(self, cell: Cell, other: Cell) -> float | None:
        """Of rates: above 1 is faster than the other."""
        if other in self.errors:
            return None
        ratios = [b / a for a, b in zip(self.seconds[cell], self.seconds.get(other, []))]
        return statistics.median(ratios) if ratios else None
