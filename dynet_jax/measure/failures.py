"""Failures of a measurement that do not end the others, and the time limit of all of them."""

import time

from dynet_jax.errors import UserError, named
from dynet_jax.memory import is_out_of_memory


class Failure(Exception):
    """An error: the requested work has failed; the text says how, in a few words."""


class Raised(Failure):
    """An error: a process could not answer a question, but continues."""


class Ended(Failure):
    """An error: a process has ended, or was ended because it did not answer in time; its prepared state is lost.

    status: its exit status, negative for a signal; None if it did not answer in time.
    """

    def __init__(self, text: str, status: int | None = None):
        super().__init__(text)
        self.status = status


class OutOfTime(Exception):
    """An error: the limit of the whole command has been reached; nothing is wrong with the request."""


class Deadline:
    """A limit in seconds for a whole command, starting now."""

    def __init__(self, seconds: float = float("inf")):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def passed(self) -> bool:
        return self.left <= 0


def what_failed(error: BaseException) -> str:
    """Returns the failure on one line, short enough for a row of a table.

    >>> what_failed(UserError("no such image")), what_failed(MemoryError("1 GB"))
    ('no such image', 'out of memory (MemoryError: 1 GB)')
    """
    if isinstance(error, UserError | Failure):
        return str(error)
    return f"out of memory ({named(error)})" if is_out_of_memory(error) else named(error)
