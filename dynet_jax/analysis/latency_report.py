"""The measurements as tables beside the paper's Table 2 and Fig. 7."""

import os
import platform
from collections.abc import Iterable, Sequence

from dynet_jax.analysis.latency import Measurement, Parts
from dynet_jax.analysis.latency_compare import (
    PAPER,
    best,
    compare,
    figure7_rows,
    is_of_paper,
    label,
    on_threads,
    reductions,
    select,
    values,
)
from dynet_jax.analysis.runtimes import RUNTIMES
from dynet_jax.analysis.table import Table
from dynet_jax.machine import processor_model


def summary_table(measurements: Sequence[Measurement], size: int, batch: int) -> Table:
    """Returns a table of the fastest form of each network, with the paper's numbers if they have this size and batch.

    The first row is for float32, the second one for all formats, if it differs.
    """
    unit = "ms" if batch == 1 else "images/s"
    header = ("network", "threads", unit, "in", "base", f"base's {unit}", "in", "ratio")
    of_paper = ("paper's ms", "paper's base", "paper's ratio")
    rows = []
    measurements = select(measurements, image_size=size, batch=batch)
    for pair in values(measurements, "pair"):
        paper = PAPER.get(pair)
        published = (*paper, paper[1] / paper[0]) if paper else (None, None, None)
        for threads in values(measurements, "threads"):
            here = select(measurements, pair=pair, threads=threads)
            for found in dict.fromkeys((best(select(here, numbers="float32")), best(here))):
                cells = [[speed(m), label(m.cell)] if m else [None, None] for m in (found.dynamic, found.base)]
                base = found.base.cell.network if found.base else None
                rows.append((pair, str(threads), *cells[0], base, *cells[1], found.same_runtime, *published))
    if rows and is_of_paper(measurements[0].cell):
        return Table((*header, *of_paper), rows)
    return Table(header, [row[: len(header)] for row in rows])


def runtime_table(measurements: Sequence[Measurement], size: int, batch: int, threads: int) -> Table:
    """Returns a table of all runtimes: both networks, and the ratios to the base there and to the fastest base."""
    unit = "ms" if batch == 1 else "images/s"
    header = ("network", "runtime", unit, "quartiles", "best", f"base's {unit}", "quartiles", "best")
    rows = []
    measurements = select(measurements, image_size=size, batch=batch, threads=threads)
    for pair in values(measurements, "pair"):
        here = select(measurements, pair=pair)
        for cell in {label(m.cell): m.cell for m in here}.values():
            found = compare(here, cell)
            numbers = [number for m in (found.dynamic, found.base) for number in _numbers(m)]
            rows.append((pair, label(cell), *numbers, found.same_runtime, found.to_fastest, found.to_fastest_float32))
    return Table((*header, "ratio", "to fastest base", "to fastest float32 base"), rows)


def speed(m: Measurement, seconds: float | None = None) -> float:
    """Returns milliseconds for one image, or images per second for a batch."""
    seconds = m.median if seconds is None else seconds
    return 1000 * seconds if m.cell.batch == 1 else m.cell.batch / seconds


def _numbers(m: Measurement | None) -> tuple:
    if m is None or m.error:
        return ("failed" if m else None, None, None)
    quartiles = sorted(speed(m, seconds) for seconds in (m.lower_quartile, m.upper_quartile))
    return speed(m), " to ".join(f"{value:.2f}" for value in quartiles), speed(m, m.minimum)


def reduction_table(measurements: Sequence[Measurement], runtime: str | None) -> Table:
    """Returns Fig. 7 in numbers, with a row for each network and number of threads."""
    sizes, rows = sorted(values(measurements, "image_size")), []
    for threads in values(measurements, "threads"):
        for pair, of_size in reductions(measurements, threads, runtime).items():
            cells = [f"{100 * of_size[size]:+.1f} %" if size in of_size else None for size in sizes]
            rows.append((pair, str(threads), *cells))
    return Table(("network", "threads", *(f"{size} px" for size in sizes)), rows)


def parts_table(parts: Sequence[Parts]) -> Table:
    """Returns the parts of the native engine's time, in percent of the sum over its operations."""
    rows = []
    for part in parts:
        shares = [100 * seconds / sum(part[1:]) for seconds in part[1:]]
        rows.append((part.cell.network, part.cell.numbers, str(part.cell.threads), 1000 * sum(part[1:]), *shares))
    return Table(("network", "numbers", "threads", "ms", "predictors %", "fusion %", "convolutions %", "rest %"), rows)


def document(measurements: Sequence[Measurement], parts: Sequence[Parts], notes: Sequence[str]) -> str:
    """Returns all tables as Markdown, with the notes first and the failures last."""
    sections = ["# Latency of dynamic networks and their bases", "\n".join(f"- {note}" for note in notes)]
    for batch in values(measurements, "batch"):
        for size in values(measurements, "image_size"):
            what = "one image (Table 2)" if batch == 1 else f"batches of {batch}"
            what = f"{what}, {size} px"
            sections += _section(f"## {what}: the fastest of each", summary_table(measurements, size, batch))
            for threads in values(measurements, "threads"):
                table = runtime_table(measurements, size, batch, threads)
                sections += _section(f"### {what}, {on_threads(threads)}: every runtime", table)
    if len(values(measurements, "image_size")) > 1:
        for name, of_these, runtime in figure7_rows(measurements):
            sections += _section(f"## 100 % - L_dynamic / L_base (Fig. 7), {name}", reduction_table(of_these, runtime))
    if parts:
        size = parts[0].cell.image_size
        sections += _section(f"## Where the native engine's time goes, {size} px", parts_table(parts))
    failed = {f"- {label(m.cell)}, {m.cell.network}: {m.error}" for m in measurements if m.error}
    return "\n\n".join([*sections, *(["## Failed", "\n".join(sorted(failed))] if failed else [])]) + "\n"


def _section(title: str, table: Table) -> list[str]:
    return [title, table.markdown()] if table.rows else []


def disturbance(measurements: Sequence[Measurement]) -> list[str]:
    """Returns a warning if many measurements are uncertain, as they are if something else was running."""
    working = [m for m in measurements if not m.error]
    wide = [m for m in working if m.upper_quartile > 1.5 * m.lower_quartile]
    if 10 * len(wide) <= len(working):
        return []
    return [
        f"WARNING: in {len(wide)} of {len(working)} measurements the upper quartile is more than 1.5 times the lower: "
        "something else was running on the processor, and threads waited for one another."
    ]


def machine_lines(runtimes: Iterable[str], cores: int) -> list[str]:
    """Returns the processor, its cores, the system, and the versions of the runtimes."""
    versions = "; ".join(f"{name}: {RUNTIMES.find(name).versions()}" for name in runtimes)
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return [f"Processor: {processor_model()}, {cores} of {os.cpu_count()} cores; {system}", f"Runtimes: {versions}"]
