"""The table of layers: a process times them one by one; known results are not timed again."""

import argparse
import itertools
import math
from collections.abc import Iterator

import jax

from benchmarks.console import table_head, table_row, three_digits
from benchmarks.layers import PASSES, Layer, layers_of
from benchmarks.timing import Timing
from dynet_jax.console import say
from dynet_jax.measure.failures import Deadline, Ended, Failure, OutOfTime
from dynet_jax.measure.records import Records, by_entries
from dynet_jax.measure.worker import Workers

MODULE = "benchmarks.layer_timing"
key_of = by_entries(("layer", "batch", "pass", "form", "dtype", "jax", "device"))  # a layer's name says its sizes

ANSWERING = 10.0  # seconds that the process has to tell what it has found until then


def layer_table(forms: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """Returns lines of Markdown, with two rows per distinct layer and batch: forward and gradient."""
    jax.config.update("jax_platforms", "cpu")  # for the shapes of networks; the device is the other process's
    deadline = Deadline(arguments.limit)
    workers = Workers(limit=arguments.case_limit, deadline=deadline)
    try:
        layers = layers_of(arguments.networks, arguments.width, arguments.image_size)
        table = Layers(arguments, workers, deadline)
        yield from table.head()
        table.measure(list(itertools.product(layers, arguments.batch)), forms)
    except OutOfTime:
        yield "No time was left to begin."
        return
    finally:
        workers.close()
    yield from table_head("network", "layer", "batch", "pass", numbers=[f"{form} ms" for form in forms])
    order = {network: place for place, network in enumerate(arguments.networks)}
    for layer, networks in sorted(layers.items(), key=lambda item: order[item[1][0]]):
        for batch, which in itertools.product(arguments.batch, PASSES):
            if cells := table.cells(layer, batch, which, forms):
                yield table_row(", ".join(networks), str(layer), str(batch), which, *cells)


class Layers:
    """The layers to measure, and their stored results."""

    def __init__(self, arguments: argparse.Namespace, workers: Workers, deadline: Deadline):
        self.arguments, self._workers, self._deadline = arguments, workers, deadline
        self._machine = workers.ask(MODULE, {"do": "describe"})
        self._records = Records(arguments.jsonl, key=key_of)

    def head(self) -> Iterator[str]:
        yield heading(self._machine, self.arguments)
        yield ""

    def measure(self, cases: list[tuple[Layer, int]], forms: list[str]) -> None:
        for index, (layer, batch) in enumerate(cases, start=1):
            missing = [form for form in forms if layer.has(form) and not self._is_known(layer, batch, form)]
            elapsed = self.arguments.limit - self._deadline.left
            say(f"[{index}/{len(cases)}] after {elapsed:.0f} s: {layer}, batch {batch}: {len(missing)} forms")
            try:
                if missing:
                    self._time(layer, batch, missing)
            except OutOfTime:
                left_out = len(cases) - index + 1
                say(f"the limit of {self.arguments.limit:.0f} s: {left_out} of {len(cases)} cases left out")
                break

    def _time(self, layer: Layer, batch: int, forms: list[str]) -> None:
        """Times all forms in alternation, or one by one after the process has ended, to find the cause. Raises
        OutOfTime.
        """
        names = ("dtype", "repeats", "once_above")
        left = self._deadline.left - min(ANSWERING, self._deadline.left / 10)
        question = {"do": "time", "layer": layer, "batch": batch, "forms": forms, "left": left}
        question |= {name: getattr(self.arguments, name) for name in names}
        try:
            rows = self._workers.ask(MODULE, question, self.arguments.case_limit * len(forms))
        except Failure as error:
            if isinstance(error, Ended) and len(forms) > 1:
                say(f"  together they ended the process ({error}): one by one then")
                for form in forms:
                    self._time(layer, batch, [form])
                return
            failed = {"error": str(error)}
            rows = [{"pass": which, "form": form, **failed} for which, form in itertools.product(PASSES, forms)]
        for row in rows:
            self._records.add(**self._place(layer, batch, row["pass"], row["form"]), **_without_place(row))

    def cells(self, layer: Layer, batch: int, which: str, forms: list[str]) -> list[str]:
        """Returns the cells of a row of the table; none if nothing is known."""
        rows = {form: self._find(layer, batch, which, form) for form in forms}
        if not any(rows.values()):
            return []
        timings = {form: _timing(row) for form, row in rows.items()}
        cells = []
        for form, row in rows.items():
            milliseconds, ratio = timings[form].cells(timings[forms[0]])
            failed = row is not None and "error" in row
            cell = row["error"].partition(" (")[0] if failed and _is_known_mark(row["error"]) else milliseconds
            cells.append(cell if ratio == "-" else f"{cell} ({ratio})")
        return cells

    def _is_known(self, layer: Layer, batch: int, form: str) -> bool:
        return all(self._find(layer, batch, which, form) for which in PASSES)

    def _find(self, layer: Layer, batch: int, which: str, form: str) -> dict | None:
        return self._records.find(key_of(self._place(layer, batch, which, form)))

    def _place(self, layer: Layer, batch: int, which: str, form: str) -> dict:
        place = {"layer": str(layer), "batch": batch, "pass": which, "form": form, "dtype": self.arguments.dtype}
        return place | {name: self._machine[name] for name in ("jax", "device")}


def _without_place(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("pass", "form")}


def _timing(row: dict | None) -> Timing:
    if row is None:  # no form of its own here, or no time was left
        return Timing(math.nan, absent=True)
    return Timing(math.nan) if "error" in row else Timing(row["ms"] / 1000, row["single"])


def _is_known_mark(error: str) -> bool:
    """Returns whether the error says enough in a cell of the table."""
    return error.startswith(("died: ", "over ", "out of memory"))


def heading(machine: dict, arguments: argparse.Namespace) -> str:
    """Returns a line about what was measured where."""
    return (
        f"jax {machine['jax']}, backend {machine['backend']}, device {machine['device']}, {machine['cpus']} CPUs; "
        f"batch {', '.join(map(str, arguments.batch))}, width {arguments.width}, images "
        f"{arguments.image_size}x{arguments.image_size}, {arguments.dtype}, median of {arguments.repeats}; "
        f"an empty program takes {three_digits(1000 * machine['empty'])} ms"
    )
