"""A table of plain values, as Markdown for readers and as CSV for programs."""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of strings, ints, floats and None. `zeros` is the text for a 0: '' if it means an absence."""

    header: tuple[str, ...]
    rows: list[tuple]
    zeros: str | None = None

    def markdown(self) -> str:
        """Returns aligned Markdown: ints with thousands separators, floats with two decimals, None blank.

        >>> print(Table(("model", "parameters"), [("dy_mobile", 7617320), ("none", None)]).markdown())
        | model     | parameters |
        | :-------- | ---------: |
        | dy_mobile |  7,617,320 |
        | none      |            |
        """
        columns = [[cell.replace("|", "\\|") for cell in column] for column in zip(*self.texts)]
        widths, numeric = [max(map(len, column)) for column in columns], self.numeric
        lines = [
            _line(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
            for row in zip(*columns)
        ]
        rule = _line(
            "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1) for width, right in zip(widths, numeric)
        )
        return "\n".join([lines[0], rule, *lines[1:]])

    @property
    def texts(self) -> list[list[str]]:
        """Returns the header and the rows as formatted texts."""
        return [list(self.header), *([self._text(cell) for cell in row] for row in self.rows)]

    @property
    def numeric(self) -> list[bool]:
        """Returns for each column whether it has numbers."""
        return [any(isinstance(cell, int | float) for cell in cells) for cells in zip(*self.rows)]

    def csv(self) -> str:
        """Returns the table as CSV with a header; values are not formatted.

        >>> print(Table(("model", "parameters"), [("dy_mobile", 7617320)]).csv())
        model,parameters
        dy_mobile,7617320
        """
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue().rstrip("\n")

    def _text(self, cell) -> str:
        if cell is None:
            return ""
        if self.zeros is not None and cell == 0:
            return self.zeros
        if isinstance(cell, float):
            return f"{cell:,.2f}"
        return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
