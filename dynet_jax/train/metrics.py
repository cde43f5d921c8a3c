"""Metrics written while training: `metrics.jsonl` and TensorBoard."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynet_jax import json_lines
from dynet_jax.console import finite, warn
from dynet_jax.workdir.metrics import METRICS_FILE


class MetricWriter:
    """A writer of metrics: one JSON object per line of WORKDIR/metrics.jsonl, and TensorBoard's event file.

    It reports a full disk; lines of metrics.jsonl are kept, and written when there is room.
    """

    def __init__(self, workdir: Path, enabled: bool = True):
        self.path = workdir / METRICS_FILE
        self._unwritten: list[dict] = []
        self._tensorboard = None
        if enabled:
            self._tensorboard = _Events(workdir / "tensorboard")
            self._repair()

    def _repair(self) -> None:
        try:
            if broken := json_lines.repair(self.path):
                warn(f"{self.path} had broken lines, truncated by a crash or a full disk; removed: {broken}")
        except OSError as error:
            warn(f"{self.path} cannot be repaired ({error.strerror}); truncated lines are skipped")

    def write(self, step: int, kind: str, values: dict) -> None:
        """Writes a step's values; kind: 'train' or 'test'. Values that are not numbers go only to metrics.jsonl."""
        if self._tensorboard is None:
            return
        self._unwritten.append(finite({"step": step, "kind": kind, **values}))
        try:
            json_lines.append(self.path, *self._unwritten)
            self._unwritten = []
            numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
            self._tensorboard.write(step, numbers)
        except OSError as error:
            warn(
                f"the metrics of step {step} could not be written ({error.strerror}); the next write will include them"
            )

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Writes images, [height, width, 3] uint8 each, to TensorBoard."""
        if self._tensorboard is None:
            return
        try:
            self._tensorboard.write(step, images)
        except OSError as error:
            warn(f"the pictures of step {step} could not be written ({error.strerror})")

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


class _Events:
    """TensorBoard's event file, written at once: a writer thread, as in `SummaryWriter`, would die of a full disk."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, float | np.ndarray]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]  (made at run time)
        from tensorboardX.summary import image, scalar

        try:
            self._file = self._file or EventsWriter(str(self._folder / "events"))
            for key, value in values.items():
                summary = image(key, value, dataformats="HWC") if isinstance(value, np.ndarray) else scalar(key, value)
                self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._file.flush()
        except OSError:
            self._file = None  # readers stop at a truncated record, so begin another file
            raise

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
