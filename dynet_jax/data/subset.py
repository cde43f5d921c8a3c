"""Some records of a source, in a given order."""

from collections.abc import Iterable

import numpy as np

from dynet_jax.data.record import Record, Source


class Subset:
    """A source whose record n is the record `indices[n]` of another one.

    >>> from dynet_jax.data import load_source
    >>> digits = load_source("digits", "test")
    >>> Subset(digits, [5, 3]).name_of(0) == digits.name_of(5)
    True
    """

    def __init__(self, source: Source, indices: Iterable[int]):
        self.source, self.indices, self.class_names = source, list(map(int, indices)), source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[self.indices[index]]

    def name_of(self, index: int) -> str:
        return self.source.name_of(self.indices[index])


def spread(source: Source, count: int | None = None) -> Subset:
    """Returns `count` records at equal distances, because the first ones of a folder would all be of one class.

    >>> from dynet_jax.data import load_source
    >>> spread(load_source("digits", "test"), 4).indices
    [0, 89, 179, 269]
    """
    count = len(source) if count is None else min(count, len(source))
    return Subset(source, [index * len(source) // count for index in range(count)])


def shuffled(source: Source, seed: int = 0) -> Subset:
    """Returns all records in a random order that depends on the seed."""
    return Subset(source, np.random.default_rng(seed).permutation(len(source)))
