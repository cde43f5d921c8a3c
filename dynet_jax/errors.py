"""Mistakes of the user: one class, so that every command can answer them with one line instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user asked for cannot be done; the message says what is wrong and what would be right."""

    exit_code = 2


class HostLost(UserError):
    """Another host of the run has gone; nothing is wrong with what the user asked for, so: start me again."""

    exit_code = 75


def suggest(word: str, choices: Iterable[str]) -> str:
    """The part of a message that says what would have been right.

    >>> suggest("dy_mobil", ["dy_mobile", "resnet18"])
    'did you mean dy_mobile?'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from: {', '.join(choices)}"
