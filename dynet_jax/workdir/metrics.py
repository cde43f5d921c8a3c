"""metrics.jsonl, read back."""

import json
import math
from pathlib import Path

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: Path, kind: str) -> list[dict]:
    """The rows of one kind by step. Where a resumed run went back, what an earlier attempt wrote from there on is out.

    A line cut short by a crash is passed over.
    """
    rows: list[dict] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        row = {key: math.nan if value is None else value for key, value in row.items()}  # JSON has no NaN
        if row["kind"] == kind:
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
    return rows
