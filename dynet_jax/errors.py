"""Mistakes of the user: one class, so that every command can answer them with one line instead of a traceback.

And what such a line is made of: suggestions, and the errors of libraries.
"""

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


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """The text of an error, which libraries spread over pages, on one line and cut after `limit` characters.

    >>> one_line(OSError("the disk\\n  is full"), limit=11)
    'the disk is'
    """
    return " ".join(str(error).split())[:limit]


def named(error: BaseException) -> str:
    """The kind and the beginning of the text of an error, on one line.

    >>> named(OSError("the disk\\n  is full"))
    'OSError: the disk is full'
    """
    text = one_line(error).split(" See full TensorStore details")[0]  # what follows is long and about TensorStore
    return f"{type(error).__name__}: {text[:200]}"
