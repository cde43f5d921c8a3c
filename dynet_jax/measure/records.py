"""Results of a long measurement, stored as they come, so that a failure or a lost machine costs no more than itself."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from dynet_jax import json_lines
from dynet_jax.console import say


def by_entries(names: Sequence[str]) -> Callable[[dict], Hashable]:
    """Returns the key of `Records` for rows that are of the same thing if they have the same of these entries.

    >>> by_entries(["layer", "batch"])({"layer": "a", "batch": 8, "seconds": 0.1})
    ('a', 8)
    """
    return lambda row: tuple(row.get(name) for name in names)


class Records:
    """Rows that are printed and, if there is a file, written to it as JSON lines, each at once.

    With `key`, the file's rows are reused, the newest of each key, so that nothing is measured twice; without it, the
    file is overwritten.
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
        """Returns the newest row with that key, or None."""
        return self._known.get(key)

    def add(self, **row) -> None:
        self.rows.append(row)
        if self._key:
            self._known[self._key(row)] = row
        say("  " + ", ".join(_text(key, value) for key, value in row.items()))
        if self._file is not None:
            json_lines.append(self._file, row)


def read_rows(file: Path) -> list[dict]:
    """Returns the rows of a JSON-lines file, none if it does not exist yet. Removes lines truncated by a crash."""
    json_lines.repair(file)
    return json_lines.read(file)[0]


def _text(key, value) -> str:
    return f"{key} {value:.4g}" if isinstance(value, float) else str(value)
