"""What a long measurement finds, kept as it comes: one that fails, or a machine that goes away, costs no more."""

from collections.abc import Callable, Hashable
from pathlib import Path

from dynet_jax import json_lines
from dynet_jax.console import say


class Records:
    """Rows, written to a file of JSON lines (or none) and shown, each at once.

    With `key`, the file's rows are taken up again, the newest of each key, so that nothing is measured twice; without
    it, the file begins anew.
    """

    def __init__(self, file: Path | None = None, key: Callable[[dict], Hashable] | None = None):
        self.rows: list[dict] = []
        self._file, self._key = file, key
        if file is not None and key is None:
            file.write_text("")
        elif file is not None:
            self.rows = read_rows(file)
        self._known = {key(row): row for row in self.rows} if key else {}

    def find(self, key: Hashable) -> dict | None:
        """The newest row of that key."""
        return self._known.get(key)

    def add(self, **row) -> None:
        self.rows.append(row)
        if self._key:
            self._known[self._key(row)] = row
        say("  " + ", ".join(_text(key, value) for key, value in row.items()))
        if self._file is not None:
            json_lines.append(self._file, row)


def read_rows(file: Path) -> list[dict]:
    """Of a file of JSON lines, or none if it is not there yet. Lines that a crash has cut are removed."""
    json_lines.repair(file)
    return json_lines.read(file)[0]


def _text(key, value) -> str:
    return f"{key} {value:.4g}" if isinstance(value, float) else str(value)
