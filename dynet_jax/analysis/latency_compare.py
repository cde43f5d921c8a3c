"""Comparison of measurements: ratios as in the paper's Table 2 and Fig. 7, and the CSV file."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dynet_jax.analysis.latency import Measurement
from dynet_jax.analysis.runtimes import Cell
from dynet_jax.analysis.table import Table

# Table 2: milliseconds of the dynamic network and of its base, in Caffe on an i7-7700, 224 px, batch 1, mean of 50.
PAPER = {"dy_mobile": (58.3, 109.1), "dy_resnet18": (68.7, 90.7), "dy_resnet50": (135.1, 199.6)}

NUMBERS = ("median", "minimum", "lower_quartile", "upper_quartile")
DERIVED = ("images_per_s", "base_in_same_runtime_over_this", "fastest_base_over_this", "fastest_base")
DERIVED += ("fastest_float32_base_over_this", "fastest_float32_base")


class Comparison(NamedTuple):
    """A dynamic network and its base, each None if it was not measured there.

    base: in the same runtime and numbers.
    fastest_base: in the fastest runtime and numbers, with the same number of threads; fastest_float32: in float32.
    """

    dynamic: Measurement | None
    base: Measurement | None
    fastest_base: Measurement | None
    fastest_float32: Measurement | None

    @property
    def same_runtime(self) -> float | None:
        """Returns the speed relative to the base; above 1 the dynamic network is faster."""
        return ratio(self.base, self.dynamic)

    @property
    def to_fastest(self) -> float | None:
        return ratio(self.fastest_base, self.dynamic)

    @property
    def to_fastest_float32(self) -> float | None:
        return ratio(self.fastest_float32, self.dynamic)

    @property
    def like_for_like(self) -> float | None:
        """Returns the speed relative to the fastest base, in float32 for float32 networks, otherwise in any format."""
        exact = self.dynamic is not None and self.dynamic.cell.numbers == "float32"
        return self.to_fastest_float32 if exact else self.to_fastest


def ratio(slow: Measurement | None, fast: Measurement | None) -> float | None:
    """Returns the ratio of the medians; None if one was not measured or failed."""
    if slow is None or fast is None or slow.error or fast.error:
        return None
    return slow.median / fast.median


def label(cell: Cell) -> str:
    """Returns a label such as 'jax', 'native' or 'native int8'."""
    return cell.runtime if cell.numbers == "float32" else f"{cell.runtime} {cell.numbers}"


def is_of_paper(cell: Cell) -> bool:
    """Returns whether the paper has numbers for this width, image size and batch."""
    return (cell.image_size, cell.batch, cell.width) == (224, 1, 1)


def on_threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def fastest(measurements: Iterable[Measurement]) -> Measurement | None:
    return min((m for m in measurements if not m.error), key=lambda m: m.median, default=None)


def select(measurements: Iterable[Measurement], **fields) -> list[Measurement]:
    """Returns the measurements whose cells have these values; `is_dynamic` is a field too."""
    return [m for m in measurements if all(getattr(m.cell, name) == value for name, value in fields.items())]


def values(measurements: Iterable[Measurement], field: str) -> list:
    """Returns the distinct values of a field of the cells, in the order of their first appearance."""
    return list(dict.fromkeys(getattr(m.cell, field) for m in measurements))


def compare(measurements: Sequence[Measurement], cell: Cell) -> Comparison:
    """Returns the comparison of a cell's pair at its size, batch and threads, in its runtime and numbers."""
    same = {name: getattr(cell, name) for name in ("pair", "threads", "image_size", "batch", "width")}
    around = select(measurements, **same)
    own = select(around, runtime=cell.runtime, numbers=cell.numbers)
    dynamic, base = (next(iter(select(own, is_dynamic=kind)), None) for kind in (True, False))
    bases = select(around, is_dynamic=False)
    return Comparison(dynamic, base, fastest(bases), fastest(select(bases, numbers="float32")))


def best(measurements: Sequence[Measurement]) -> Comparison:
    """Returns the fastest measurements of both networks of a pair, at one size, batch and number of threads."""
    dynamic, base = (fastest(select(measurements, is_dynamic=kind)) for kind in (True, False))
    return Comparison(dynamic, base, base, fastest(select(measurements, is_dynamic=False, numbers="float32")))


def reductions(measurements: Sequence[Measurement], threads: int, runtime: str | None) -> dict[str, dict[int, float]]:
    """Returns the data of Fig. 7, {network: {image size: 1 - L_dynamic / L_base}}, at batch 1.

    runtime: a `label` for both networks; None for the fastest of each.
    """
    result: dict[str, dict[int, float]] = {}
    measurements = select(measurements, threads=threads, batch=1)
    for pair in values(measurements, "pair"):
        for size in sorted(values(measurements, "image_size")):
            here = select(measurements, pair=pair, image_size=size)
            times = best([m for m in here if runtime in (None, label(m.cell))]).same_runtime
            if times is not None:
                result.setdefault(pair, {})[size] = 1 - 1 / times
    return result


def figure7_rows(measurements: Sequence[Measurement]) -> list[tuple[str, list[Measurement], str | None]]:
    """Returns the panels of Fig. 7: (name, measurements, runtime), the last two as arguments of `reductions`.

    The first ones have the fastest of each network, in any numbers and in float32, then both networks in each runtime.
    """
    exact = select(measurements, numbers="float32")
    rows: list[tuple[str, list[Measurement], str | None]]
    rows = [("the fastest of each", list(measurements), None), ("the fastest of each in float32", exact, None)]
    names = dict.fromkeys(label(m.cell) for m in select(measurements, is_dynamic=True) if not m.error)
    rows += [(f"both in {name}", list(measurements), name) for name in names]
    return rows if len(exact) < len(measurements) else rows[1:]


def csv_of(measurements: Sequence[Measurement]) -> str:
    """Returns CSV with a line per measurement, in seconds for the whole batch, and derived ratios."""
    header = (*Cell._fields, "runs", *(f"{name}_s" for name in NUMBERS), "deviation", "error", *DERIVED)
    rows = []
    for m in measurements:
        found = compare(measurements, m.cell)._replace(dynamic=m)  # bases have ratios too
        bases = [label(m.cell) if m else None for m in (found.fastest_base, found.fastest_float32)]
        numbers = [None if math.isnan(value) else value for value in (m[2:6])]
        rate = None if m.error else m.images_per_second
        derived = (rate, found.same_runtime, found.to_fastest, bases[0], found.to_fastest_float32, bases[1])
        rows.append((*m.cell, m.runs, *numbers, m.deviation, m.error, *derived))
    return Table(header, rows).csv() + "\n"


def read_csv(file: Path) -> list[Measurement]:
    """Returns the measurements in a file of `csv_of`; files of earlier versions may lack some fields of cells."""
    kinds = Cell.__annotations__
    with open(file, newline="") as lines:
        return [
            Measurement(
                Cell(**{name: kinds[name](row[name]) for name in Cell._fields if name in row}),
                int(row["runs"]),
                *(float(row[f"{name}_s"] or "nan") for name in NUMBERS),
                deviation=float(row["deviation"]) if row["deviation"] else None,
                error=row["error"],
            )
            for row in csv.DictReader(lines)
        ]
