"""Mistakes of the user: one class, so that every command can answer them with one line instead of a traceback.

The file also has the parts of such a line: suggestions, and errors of libraries.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error: a request cannot be fulfilled; the message says what is wrong and what would be right."""

    exit_code = 2


class HostLost(UserError):
    """An error: another host of the run is lost; the request was right, so the run can be started again."""

    exit_code = 75


def suggest(word: str, choices: Iterable[str]) -> str:
    """Returns the part of a message that says what would have been right.

    >>> suggest("dy_mobil", ["dy_mobile", "resnet18"])
    'did you mean dy_mobile?'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from: {', '.join(choices)}"


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """Returns the text of an error, which may span pages, on one line of at most `limit` characters.

    >>> one_line(OSError("the disk\\n  is full"), limit=11)
    'the disk is'
    """
    return " ".join(str(error).split())[:limit]


def named(error: BaseException) -> str:
    """Returns the kind of an error and the start of its text, on one line.

    >>> named(OSError("the disk\\n  is full"))
    'OSError: the disk is full'
    """
    text = one_line(error).split(" See full TensorStore details")[0]  # the rest is long and only about TensorStore
    return f"{type(error).__name__}: {text[:200]}"
