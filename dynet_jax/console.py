"""What commands say to people."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def say(line: str) -> None:
    """Progress, on stderr. A log on a full disk, a pipe that nobody reads, are no reason to stop."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """A loud line: on stderr, at once."""
    say(f"WARNING: {line}")


def to_json(value: Any, **how: Any) -> str:
    """Returns JSON, which has no numbers that are not finite: they are null.

    >>> to_json({"loss": float("nan"), "iou": [0.5, float("inf")]})
    '{"loss": null, "iou": [0.5, null]}'
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(value), allow_nan=False, **how)


def duration(seconds: float) -> str:
    """
    >>> duration(65), duration(7384), duration(4.2)
    ('1m05s', '2h03m', '4s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
