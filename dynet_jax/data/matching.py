"""A dataset for a network that was trained on another one: classes are matched by name."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dynet_jax.data.contents import classes_with_images, contents_of, listed, same_name
from dynet_jax.data.record import IGNORED, Encoded, Record, Source
from dynet_jax.errors import UserError, suggest


def matched(source: Source, class_names: Sequence[str], dataset: str, network: str) -> Source:
    """Returns the source with the network's classes; it may have only some of them, in any order.

    dataset, network: their names in messages.
    Raises UserError for a class that the network does not have, or has twice.
    """
    if list(source.class_names) == list(class_names):
        return source
    places = {same_name(name): index for index, name in enumerate(class_names)}
    needed = classes_with_images(source)
    unknown = [name for name in needed if same_name(name) not in places]
    if unknown:
        hint = suggest(unknown[0], class_names) if len(class_names) <= 20 else f"it has {listed(class_names)}"
        raise UserError(f"{dataset} has classes that {network} was not trained on: {listed(unknown)}; {hint}")
    counts = Counter(map(same_name, class_names))
    twice = [name for name in needed if counts[same_name(name)] > 1]
    if twice:
        raise UserError(f"{network} has several classes called {twice[0]}, so {dataset} cannot be matched to them")
    return MatchedSource(source, class_names, [places.get(same_name(name), IGNORED) for name in source.class_names])


class MatchedSource:
    """The records of a source with its classes renumbered: class n becomes `numbers[n]`."""

    def __init__(self, source: Source, class_names: Sequence[str], numbers: Sequence[int]):
        self.source, self.class_names, self.numbers = source, list(class_names), list(numbers)
        self.contents = contents_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return record._replace(label=self._renumbered(record.label))

    def name_of(self, index: int) -> str:
        return self.source.name_of(index)

    def _renumbered(self, label):
        if isinstance(label, int):
            return self.numbers[label]
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.numbers)] = self.numbers
        return table[label] if isinstance(label, np.ndarray) else _Renumbered(label, table)


class _Renumbered:
    """An encoded class map with renumbered classes."""

    def __init__(self, label: Encoded, table: np.ndarray):
        self._label, self._table = label, table

    def decode(self) -> np.ndarray:
        return self._table[self._label.decode()]
