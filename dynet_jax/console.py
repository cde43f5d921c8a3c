"""Output of commands for users."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def say(line: str) -> None:
    """Prints a line of progress on stderr. A full disk or a closed pipe is ignored."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """Prints a prominent line on stderr at once."""
    say(f"WARNING: {line}")


def finite(value: Any) -> Any:
    """Returns a value that JSON can represent: numbers that are not finite become None.

    >>> finite({"loss": float("nan"), "iou": [0.5, float("inf")]})
    {'loss': None, 'iou': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, **how: Any) -> str:
    """Returns JSON in which numbers that are not finite are null."""
    return json.dumps(finite(value), allow_nan=False, **how)


def duration(seconds: float) -> str:
    """Returns a duration in words.

    >>> duration(65), duration(7384), duration(4.2)
    ('1m05s', '2h03m', '4s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def size(count: float) -> str:
    """Returns a number of bytes in a suitable unit.

    >>> size(0), size(999), size(1_536), size(2.5e9), size(999_999)
    ('0 bytes', '999 bytes', '1.54 kB', '2.5 GB', '1 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if float(f"{count:.3g}") < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 1000 else f"{count:,.0f} TB"
