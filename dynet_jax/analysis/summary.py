"""The tables of `dynet summary`: the cost of networks, layer by layer or side by side, and the paper's numbers."""

from collections.abc import Sequence

from dynet_jax.analysis.paper import COUNTED, MI, ROWS, UNIT_NAMES, M, PaperRow, rows_of
from dynet_jax.analysis.subject import Subject
from dynet_jax.analysis.table import Table
from dynet_jax.models import list_models

PARTS = ("convolution", "fusion", "predictor", "classifier", "total")


def all_subjects() -> list[Subject]:
    """Returns every network with its defaults, then the other networks of the paper's tables."""
    subjects = [Subject(name, {}) for name in list_models()]
    return subjects + [row.subject for row in ROWS if row.subject not in subjects]


def layer_table(subject: Subject) -> Table:
    """Returns multiply-adds and parameters of every layer, and their sums; the last include BatchNorm's parameters."""
    count = subject.count
    rows = []
    for row in count.rows:
        macs = [getattr(row, part) for part in PARTS]
        rows.append((row.name, row.kind, "x".join(map(str, row.output_shape)), *macs, row.parameters))
    rows.append(("sum", "", "", *(getattr(count, part) for part in PARTS), count.parameters))
    return Table(("layer", "kind", "output", *PARTS, "parameters"), rows, zeros="")


def sums_table(subject: Subject) -> Table:
    """Returns the multiply-adds of one network, as different papers count them."""
    sums = [(name, counted(subject.count)) for name, counted in COUNTED.items()]
    return Table(("counted", "multiply-adds", "1e6", "Mi"), [(name, n, n / M, n / MI) for name, n in sums], zeros="")


def cost_table(subjects: Sequence[Subject]) -> Table:
    """Returns a table with a line per network: parameters, and multiply-adds in 1e6 and in Mi (2^20)."""
    header = ("network", "size", "parameters", *(f"{part} {unit}" for unit in ("1e6", "Mi") for part in PARTS))
    return Table(header, [_cost(subject) for subject in subjects], zeros="")


def paper_table(rows: Sequence[PaperRow] = ROWS) -> Table:
    """Returns a table of the paper's numbers and ours."""
    header = ("table", "network", "size", "paper", "ours", "unit", "difference", "what is counted")
    return Table(
        header,
        [
            (
                row.table,
                row.label,
                row.subject.image_size,
                f"{row.published:g}",
                row.ours,
                UNIT_NAMES[row.unit],
                f"{100 * row.difference:+.2f} %",
                row.counted,
            )
            for row in rows
        ],
    )


def csv_table(subjects: Sequence[Subject]) -> Table:
    """Returns `cost_table` with the paper's numbers, one per line, all as plain numbers."""
    cost = cost_table(subjects)
    header = tuple(title.replace(" ", "_") for title in cost.header)
    header += ("paper_table", "paper", "counted", "unit", "ours", "relative_difference")
    rows = []
    for subject, cells in zip(subjects, cost.rows):
        published = [
            (row.table, row.published, row.counted, UNIT_NAMES[row.unit], row.ours, row.difference)
            for row in rows_of(subject)
        ]
        rows += [(*cells, *numbers) for numbers in published or [(None,) * 6]]
    return Table(header, rows)


def summarize(subjects: Sequence[Subject], paper_rows: Sequence[PaperRow]) -> str:
    """Returns the text of `dynet summary`: layers of one network or costs of several, and the paper's numbers."""
    first = subjects[0]
    if len(subjects) == 1:
        title = f"{first.label}, {first.image_size}x{first.image_size}: multiply-adds for one image"
        parts = [title, layer_table(first).markdown(), sums_table(first).markdown()]
    else:
        parts = ["Multiply-adds for one image", cost_table(subjects).markdown()]
    if paper_rows:
        parts += ["The paper's numbers beside ours", paper_table(paper_rows).markdown()]
    return "\n\n".join(parts)


def _cost(subject):
    count = subject.count
    macs = [getattr(count, part) / unit for unit in (M, MI) for part in PARTS]
    return (subject.label, subject.image_size, count.parameters, *macs)
