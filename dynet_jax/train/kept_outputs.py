"""The outputs of a classifier that is reused for other classes: each class keeps its row, by its name."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dynet_jax.data.contents import listed, same_name


class Taken(NamedTuple):
    """The outputs that are kept.

    Attributes:
      rows: for every output of the new classifier, its index in the old one, or None for a new output.
      said: a message about it; '' if all outputs stay the same.
    """

    rows: list[int | None]
    said: str

    @property
    def all_new(self) -> bool:
        """Returns whether no output is kept."""
        return not any(row is not None for row in self.rows)

    @property
    def all_kept(self) -> bool:
        """Returns whether a classifier with the same number of outputs stays unchanged."""
        return self.rows == list(range(len(self.rows)))


def match_classes(before: Sequence[str], outputs_before: int, now: Sequence[str], outputs: int) -> Taken:
    """Returns which of the outputs `before` are outputs `now`. There may be more outputs than names.

    A repeated name identifies nothing.

    >>> match_classes(["cat", "dog"], 2, ["dog", "newt"], 2)
    Taken(rows=[1, None], said='its classes by name: 1 of 2 was known, dog; new: newt')
    """
    if not before or not now:
        unnamed = "the names of the classes are not known"
        if outputs == outputs_before:
            return Taken(list(range(outputs)), f"{unnamed}: each output keeps its weights")
        return Taken([None] * outputs, f"{unnamed}, and there are {outputs}, not {outputs_before}")
    before, now = [*map(same_name, before)], [*map(same_name, now)]
    if before == now:
        extra = [i if outputs == outputs_before else None for i in range(len(now), outputs)]
        return Taken([*range(len(now)), *extra], "")
    times_before, times_now = Counter(before), Counter(now)
    place = {name: index for index, name in enumerate(before) if times_before[name] == 1}
    rows = [place.get(name) if times_now[name] == 1 else None for name in now]
    known = [name for name, row in zip(now, rows) if row is not None]
    new = [name for name, row in zip(now, rows) if row is None]
    rows += [None] * (outputs - len(now))
    if not known:
        return Taken(rows, f"no class is the same: {listed(now)}; before: {listed(before)}")
    said = f"its classes by name: {len(known)} of {len(now)} {'was' if len(known) == 1 else 'were'} known, "
    return Taken(rows, said + listed(known) + (f"; new: {listed(new)}" if new else ""))
