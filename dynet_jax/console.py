"""What commands say to people."""

import contextlib
import sys


def say(line: str) -> None:
    """Progress, on stderr. A log on a full disk, a pipe that nobody reads, are no reason to stop."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """A loud line: on stderr, at once."""
    say(f"WARNING: {line}")


def duration(seconds: float) -> str:
    """
    >>> duration(65), duration(7384), duration(4.2)
    ('1m05s', '2h03m', '4s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
