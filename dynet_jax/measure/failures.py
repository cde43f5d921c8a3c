"""What can go wrong with a measurement without ending the others, and the time that they have together."""

import time

from dynet_jax.errors import UserError, named
from dynet_jax.memory import is_out_of_memory


class Failure(Exception):
    """What was asked for has failed; the text says how, in few words."""


class Raised(Failure):
    """A process could not answer a question, but goes on."""


class Ended(Failure):
    """A process has ended, or was ended as it did not answer in time; what it had prepared is lost.

    status: its exit status, negative for a signal; None if it did not answer in time.
    """

    def __init__(self, text: str, status: int | None = None):
        super().__init__(text)
        self.status = status


class OutOfTime(Exception):
    """The limit of the whole command has been reached; nothing is wrong with what was asked for."""


class Deadline:
    """The seconds that a whole command may take, from now on."""

    def __init__(self, seconds: float = float("inf")):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def passed(self) -> bool:
        return self.left <= 0


def what_failed(error: BaseException) -> str:
    """Returns what went wrong, on one line, short enough for a row of a table.

    >>> what_failed(UserError("no such image")), what_failed(MemoryError("1 GB"))
    ('no such image', 'out of memory (MemoryError: 1 GB)')
    """
    if isinstance(error, UserError | Failure):
        return str(error)
    return f"out of memory ({named(error)})" if is_out_of_memory(error) else named(error)
