"""metrics.jsonl, read back."""

import functools
import math
from pathlib import Path

from dynet_jax import json_lines
from dynet_jax.console import warn

METRICS_FILE = "metrics.jsonl"
_warn_once = functools.cache(warn)


def read_metrics(path: Path, kind: str) -> list[dict]:
    """The rows of one kind by step. Where a resumed run went back, what an earlier attempt wrote from there on is out.

    A line cut short by a crash is passed over, and it is said, but for the last one: that may be just being written.
    """
    found, broken = json_lines.read(path)
    if broken:
        _warn_once(f"{path} has lines that are no metrics ({broken}); they are passed over")
    rows: list[dict] = []
    for row in found:
        row = {key: math.nan if value is None else value for key, value in row.items()}  # JSON has no NaN
        if row.get("kind") == kind:
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
    return rows
