"""What a long benchmark has found, kept as it comes: a cell that fails, or a machine that goes away, costs no more."""

import json
import time
from pathlib import Path

from benchmarks.timing import progress


class Records:
    """Rows, written to a file of JSON lines (or none) and shown, each at once."""

    def __init__(self, file: Path | None = None):
        self.rows: list[dict] = []
        self._file = file
        if file is not None:
            file.write_text("")

    def add(self, **row) -> None:
        self.rows.append(row)
        progress("  " + ", ".join(_text(key, value) for key, value in row.items()))
        if self._file is not None:
            with self._file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")


class Deadline:
    """The seconds that a whole command may take, from now on."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def passed(self) -> bool:
        return self.left <= 0


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a row."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def _text(key, value) -> str:
    return f"{key} {value:.4g}" if isinstance(value, float) else str(value)
