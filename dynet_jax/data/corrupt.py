"""Images that cannot be read or decoded: each is reported once, and too many of them end the run."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from dynet_jax.errors import UserError

DEFAULT_LIMIT = 100


class Damage(NamedTuple):
    """An image that cannot be used, and why: a sentence that begins with its name."""

    name: str
    reason: str


class CorruptImages:
    """Those that a run has met so far, in training and in evaluation.

    It counts what batches were made without, in their order; not what worker threads or processes met while reading
    ahead. So a run stops at the same batch however many of those there are.

    >>> CorruptImages(limit=0).note([Damage("a.jpg", "a.jpg is not an image")], "left out")
    Traceback (most recent call last):
    dynet_jax.errors.UserError: a.jpg is not an image; corrupt images: 1, more than --config.data.max_corrupt=0
    """

    def __init__(self, limit: int = DEFAULT_LIMIT):
        self.limit = limit
        self.names: set[str] = set()

    def note(self, damages: Iterable[Damage], consequence: str) -> None:
        """Report those not met before on stderr. Raises UserError at the first above the limit."""
        for damage in damages:
            if damage.name in self.names:
                continue
            self.names.add(damage.name)
            if len(self.names) > self.limit:
                count = f"corrupt images: {len(self.names)}, more than --config.data.max_corrupt={self.limit}"
                raise UserError(f"{damage.reason}; {count}")
            count = f"corrupt image {len(self.names)} of at most {self.limit}"
            print(f"{damage.reason}; {consequence} ({count})", file=sys.stderr, flush=True)
