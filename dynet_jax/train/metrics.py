"""Metrics: sums on the devices, means in `metrics.jsonl` and TensorBoard."""

import json
from pathlib import Path

import jax

from dynet_jax.train.progress import warn

METRICS_FILE = "metrics.jsonl"


def means(sums: list[dict]) -> dict[str, float]:
    """Sums of several batches (with 'examples') -> means over their examples. This waits for the devices."""
    totals: dict[str, float] = {}
    for batch in jax.device_get(sums):
        for key, value in batch.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    examples = totals.pop("examples")
    return {key: value / examples for key, value in totals.items()}


class MetricWriter:
    """Appends one JSON object a line to WORKDIR/metrics.jsonl, and the same numbers to TensorBoard's event file."""

    def __init__(self, workdir: Path, enabled: bool = True):
        self.path = workdir / METRICS_FILE
        self._unwritten = ""
        self._tensorboard = None
        if enabled:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"))
            if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
                with self.path.open("a") as file:
                    file.write("\n")  # a crash has cut the last line: what follows begins its own

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """kind: 'train' or 'test'."""
        if self._tensorboard is None:
            return
        self._unwritten += json.dumps({"step": step, "kind": kind, **values}) + "\n"
        try:
            with self.path.open("a") as file:
                file.write(self._unwritten)
            self._unwritten = ""
            for key, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{key}", value, step)
        except OSError as error:
            self._unwritten = "\n" + self._unwritten.lstrip()  # what was cut short stays behind as a line of its own
            warn(f"the metrics of step {step} could not be written ({error.strerror}); they will be with the next ones")

    def close(self) -> None:
        if self._tensorboard is not None:
            try:
                self._tensorboard.close()
            except OSError as error:
                warn(f"TensorBoard's events could not be written to the end ({error.strerror})")


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
        if row["kind"] == kind:
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
    return rows
