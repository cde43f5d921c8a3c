"""Reading metrics.jsonl."""

import functools
import math
from pathlib import Path

from dynet_jax import json_lines
from dynet_jax.console import warn

METRICS_FILE = "metrics.jsonl"
_warn_once = functools.cache(warn)


def read_metrics(path: Path, kind: str) -> list[dict]:
    """Returns the rows of one kind by step, without rows of an earlier attempt that a resumed run has repeated.

    A truncated line is skipped with a warning, except the last one, which may be in the course of being written.
    """
    found, broken = json_lines.read(path)
    if broken:
        _warn_once(f"{path} contains lines that are not metrics ({broken}); they are skipped")
    rows: list[dict] = []
    for row in found:
        row = {key: math.nan if value is None else value for key, value in row.items()}  # JSON has no NaN
        if row.get("kind") == kind:
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
    return rows
