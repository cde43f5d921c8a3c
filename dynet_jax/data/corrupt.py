"""Images that cannot be read or decoded: each is reported once, and too many of them end the run."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from dynet_jax.errors import UserError

DEFAULT_LIMIT = 100


class Damage(NamedTuple):
    """An image that cannot be used, and the reason: a sentence that starts with its name."""

    name: str
    reason: str


class CorruptImages:
    """The corrupt images that a run has found so far, in training and in evaluation.

    It counts the images that are missing in batches, in their order, not those that worker threads or processes found
    while reading ahead. A run therefore stops at the same batch for any number of workers.

    >>> CorruptImages(limit=0).note([Damage("a.jpg", "a.jpg is not an image")], "left out")
    Traceback (most recent call last):
    dynet_jax.errors.UserError: a.jpg is not an image; corrupt images: 1, more than --config.data.max_corrupt=0
    """

    def __init__(self, limit: int = DEFAULT_LIMIT):
        self.limit = limit
        self.names: set[str] = set()

    def note(self, damages: Iterable[Damage], consequence: str) -> None:
        """Reports new ones on stderr. Raises UserError at the first one above the limit."""
        for damage in damages:
            if damage.name in self.names:
                continue
            self.names.add(damage.name)
            if len(self.names) > self.limit:
                count = f"corrupt images: {len(self.names)}, more than --config.data.max_corrupt={self.limit}"
                raise UserError(f"{damage.reason}; {count}")
            count = f"corrupt image {len(self.names)} of at most {self.limit}"
            print(f"{damage.reason}; {consequence} ({count})", file=sys.stderr, flush=True)
