"""Shapes in the text of a compiled program."""

import math
import re

_SHAPE = re.compile(r"\b(pred|[sufb]+[0-9]+[a-z0-9]*)\[([0-9,]*)\]")

Shape = tuple[str, tuple[int, ...]]  # the type and the sizes


def shapes_in(text: str) -> tuple[Shape, ...]:
    """Returns all shapes of arrays in a part of a line, in their order.

    >>> shapes_in("(f32[2,3]{1,0}, bf16[])")
    (('f32', (2, 3)), ('bf16', ()))
    """
    return tuple((kind, tuple(int(size) for size in sizes.split(",") if size)) for kind, sizes in _SHAPE.findall(text))


def bytes_of(shape: Shape) -> int:
    """Returns the size of an array.

    >>> bytes_of(("bf16", (2, 3)))
    12
    """
    kind, sizes = shape
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return math.prod(sizes) * bits // 8
