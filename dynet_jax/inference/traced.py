"""The values of a traced network: constants, and values of a program in one of the shapes that a trace gives them.

What the axes of a shape are is followed from operation to operation, because their lengths do not say it: a map may
have one position in the trace, and more for another size of images; a vector never has.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

# What an axis is. GROUP and MEMBER are channels that have been split into groups; ONE has length 1, or repeats a value.
BATCH, ROWS, COLUMNS, CHANNELS, GROUP, MEMBER, ONE = "batch", "rows", "columns", "channels", "group", "member", "one"
POSITIONS = (ROWS, COLUMNS)
OF_CHANNELS = (CHANNELS, GROUP, MEMBER)
MAP_AXES, VECTOR_AXES = (BATCH, ROWS, COLUMNS, CHANNELS), (BATCH, CHANNELS)
Axes: TypeAlias = tuple[str, ...]


class Traced(NamedTuple):
    """A value of the program, by its number, whose array in the trace has these axes.

    A vector whose axes have ROWS and COLUMNS is repeated at every position.
    """

    number: int
    axes: Axes


class Constant:
    """A value that does not depend on the images; it is computed when it is asked for."""

    def __init__(self, compute: Callable[[], Any]):
        self._compute = functools.cache(compute)

    @property
    def exact(self) -> Any:
        """Returns the value as JAX has it. Raises what its computation raises."""
        return self._compute()

    @property
    def array(self) -> np.ndarray:
        """Returns the value in float32, or as booleans."""
        array = np.asarray(self.exact)
        return array if array.dtype == bool else array.astype(np.float32)


def together(axes: Sequence[Axes], shapes: Sequence[Sequence[int]]) -> Axes | None:
    """Returns the axes of what is computed of values of one rank, element by element; None if they do not fit.

    >>> together([MAP_AXES, (BATCH, ONE, ONE, CHANNELS)], [(2, 8, 8, 3), (2, 1, 1, 3)])
    ('batch', 'rows', 'columns', 'channels')
    """
    result = []
    for labels, lengths in zip(zip(*axes), zip(*shapes)):
        named = {label: set() for label in labels if label != ONE}
        for label, length in zip(labels, lengths):
            named.get(label, set()).add(length)
        if len(named) > 1 or any(len(n) > 1 for label, n in named.items() if label not in OF_CHANNELS):
            return None
        result.append(next(iter(named), ONE))
    return tuple(result)


def broadcast(axes: Axes, before: Sequence[int], after: Sequence[int], dimensions: Sequence[int]) -> Axes | None:
    """Returns the axes of a value that gets new axes, or is repeated along some; None for another change."""
    result = [ONE] * len(after)
    for label, length, place in zip(axes, before, dimensions):
        if length != after[place] and label not in (ONE, *OF_CHANNELS):
            return None
        result[place] = label
    for place, length in enumerate(after):
        if result[place] != ONE or length == 1:
            continue
        if len(after) >= 4 and place in (1, 2):
            result[place] = POSITIONS[place - 1]
        elif place == len(after) - 1:
            result[place] = MEMBER if GROUP in result else CHANNELS
        else:
            return None
    return tuple(result)


def reshaped(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """Returns the axes of a reshaped value if axes of length 1 come or go, or channels are split into groups or merged.

    Positions do not go, not even where there is one.

    >>> reshaped(MAP_AXES, (2, 8, 8, 6), (2, 8, 8, 3, 2))
    ('batch', 'rows', 'columns', 'group', 'member')
    """
    left = [(label, n) for label, n in zip(axes, before) if n != 1 or label in POSITIONS]
    result, lengths = [], list(after)
    while lengths:
        length = lengths.pop(0)
        label, own = left[0] if left else (ONE, 1)
        if left and own == length:
            result.append(label)
            left.pop(0)
        elif length == 1:
            result.append(ONE)
        elif label == CHANNELS and len(lengths) == 1 and length * lengths[0] == own:
            result += [GROUP, MEMBER]
            lengths.pop()
            left.pop(0)
        elif [name for name, _ in left[:2]] == [GROUP, MEMBER] and length == own * left[1][1]:
            result.append(CHANNELS)
            left = left[2:]
        else:
            return None
    return None if left else tuple(result)


def channels(axes: Axes, shape: Sequence[int]) -> int:
    """Returns how many channels a value of a program has whose array in a trace has this shape."""
    return math.prod(n for label, n in zip(axes, shape) if label in OF_CHANNELS)
