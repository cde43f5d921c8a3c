"""Padding in a traced network: a trace has numbers, for one size of images, where a network may have asked for 'SAME'.

Traces with images of other sizes show which of them it is (`dynet_jax.inference.record`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

from dynet_jax.inference.program import Operation
from dynet_jax.ops.window import Padding

BY_SIZE = ("SAME", "SAME_LOWER")  # they depend on the size of the map


class Candidates(NamedTuple):
    """The paddings that an operation may have, by what has been seen of it: numbers, and names of `BY_SIZE`."""

    paddings: tuple[Padding, ...]

    @property
    def is_clear(self) -> bool:
        """Returns whether all sizes of maps have one padding."""
        return len(self.paddings) == 1

    @property
    def best(self) -> Padding:
        """Returns one of them: numbers if they are among them."""
        return self.paddings[0]

    def in_both(self, other: "Candidates") -> "Candidates | None":
        """Returns those that two traces have in common, or None."""
        found = tuple(padding for padding in self.paddings if padding in other.paddings)
        return Candidates(found) if found else None


def candidates(
    size: Sequence[int], reach: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> Candidates:
    """Returns what padding by these numbers may be, of a map of this size.

    >>> candidates((8, 8), (2, 2), (2, 2), ((0, 0), (0, 0))).paddings
    (((0, 0), (0, 0)), 'SAME', 'SAME_LOWER')
    >>> candidates((9, 9), (2, 2), (2, 2), ((0, 1), (0, 1))).paddings
    (((0, 1), (0, 1)), 'SAME')
    """
    numbers = tuple((int(low), int(high)) for low, high in pads)
    named = BY_SIZE if any(s > 1 and r > 1 for s, r in zip(strides, reach)) else ()  # else SAME is the same numbers
    return Candidates(
        (numbers, *(n for n in named if tuple(map(tuple, lax.padtype_to_pads(size, reach, strides, n))) == numbers))
    )


def with_clear_padding(operation: Any) -> Operation:
    """Returns the operation with one padding."""
    padding = getattr(operation, "padding", None)
    return operation._replace(padding=padding.best) if isinstance(padding, Candidates) else operation
