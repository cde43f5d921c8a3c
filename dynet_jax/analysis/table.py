"""A table of plain values, as Markdown for people and as CSV for programs."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of strings, ints, floats and None."""

    header: tuple[str, ...]
    rows: list[tuple]

    def markdown(self) -> str:
        """Aligned; ints with thousands separators, floats with two decimals, None and 0 blank, numbers to the right.

        >>> print(Table(("model", "parameters"), [("dy_mobile", 7617320), ("none", None)]).markdown())
        | model     | parameters |
        | :-------- | ---------: |
        | dy_mobile |  7,617,320 |
        | none      |            |
        """
        columns = [[title, *map(_text, cells)] for title, cells in zip(self.header, zip(*self.rows))]
        widths = [max(map(len, column)) for column in columns]
        numeric = [any(isinstance(cell, int | float) for cell in cells) for cells in zip(*self.rows)]
        lines = [
            _line(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
            for row in zip(*columns)
        ]
        rule = _line(
            "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1) for width, right in zip(widths, numeric)
        )
        return "\n".join([lines[0], rule, *lines[1:]])

    def csv(self) -> str:
        """With a header, values as they are.

        >>> print(Table(("model", "parameters"), [("dy_mobile", 7617320)]).csv())
        model,parameters
        dy_mobile,7617320
        """
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue().rstrip("\n")


def _text(cell) -> str:
    if cell is None or cell == 0:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
