"""Changes of shape, and choices of channels, in a traced network."""

import functools
from collections.abc import Callable

import numpy as np

from dynet_jax.inference.program import MAP, VECTOR, Channels, Flatten
from dynet_jax.inference.traced import (
    CHANNELS,
    GROUP,
    MEMBER,
    ROWS,
    VECTOR_AXES,
    Constant,
    Traced,
    broadcast,
    channels,
    reshaped,
)
from dynet_jax.inference.value_kinds import common


def shapes_of(equation) -> list[tuple[int, ...]]:
    """Returns the shapes of all inputs, and then of the results."""
    return [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]


def chosen(order: tuple[int, ...]) -> Callable:
    """Returns what makes the operation that gives these channels of a value, some of them several times."""
    return lambda xs, y: Channels("repeat", xs, y, 0, max(order) + 1, order)


def _reshaped(reader, equation, inputs):
    (value,) = inputs
    before, after = shapes_of(equation)
    if equation.params.get("dimensions") is not None and equation.primitive.name == "reshape":
        return None
    axes = value.axes if before == after else reshaped(value.axes, before, after)
    if axes is not None:
        return [value._replace(axes=axes)]
    flat = after == (before[0], int(np.prod(before[1:])))
    if not flat or reader.kind(value) != MAP:
        return None
    return [reader.add(lambda xs, y: Flatten("flatten", xs[0], y), [value], VECTOR, VECTOR_AXES, after[-1])]


def _broadcast(reader, equation, inputs):
    value, (before, after) = inputs[0], shapes_of(equation)
    if len(inputs) > 1 or reader.values[value.number].kind not in (MAP, VECTOR):
        return None
    axes = broadcast(value.axes, before, after, equation.params["broadcast_dimensions"])
    if axes is None:
        return None
    kind, count = reader.values[value.number]
    if kind == MAP and ROWS in axes and ROWS not in value.axes:
        return None
    value = value._replace(axes=axes)
    missing = channels(axes, after)
    if missing == count:
        return [value]
    if count == 1:
        order = (0,) * missing
    elif axes[-1] == MEMBER and GROUP in axes:
        order = tuple(np.arange(count).repeat(missing // count).tolist())
    else:
        return None
    return [reader.add(chosen(order), [value], kind, axes, missing)]


def _concatenated(reader, equation, inputs):
    if any(isinstance(value, Constant) for value in inputs):
        return None
    after = equation.outvars[0].aval.shape
    kind = common(list(map(reader.kind, inputs)))
    if kind is None or equation.params["dimension"] != len(after) - 1:
        return None
    axes = (*inputs[0].axes[:-1], CHANNELS)
    return [reader.add(lambda xs, y: Channels("concatenate", xs, y, 0, after[-1]), inputs, kind, axes, after[-1])]


def _sliced(reader, equation, inputs):
    before, after = shapes_of(equation)
    if before[:-1] != after[:-1] or set(equation.params["strides"] or ()) - {1}:
        return None
    return _parts(reader, inputs, [(equation.params["start_indices"][-1], equation.params["limit_indices"][-1])])


def _split(reader, equation, inputs):
    sizes = equation.params["sizes"]
    if equation.params["axis"] != len(equation.invars[0].aval.shape) - 1:
        return None
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return _parts(reader, inputs, list(zip([0, *stops], stops)))


def _parts(reader, inputs, bounds) -> list[Traced] | None:
    (value,) = inputs
    kind, results = common([reader.kind(value)]), []
    if kind is None:
        return None
    for start, stop in ((int(start), int(stop)) for start, stop in bounds):
        part = functools.partial(Channels, "slice", start=start, stop=stop)
        axes = (*value.axes[:-1], CHANNELS)
        results.append(reader.add(lambda xs, y, part=part: part(inputs=xs, y=y), inputs, kind, axes, stop - start))
    return results


SHAPES: dict[str, Callable] = {
    **dict.fromkeys(("squeeze", "reshape", "expand_dims"), _reshaped),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenated,
    "slice": _sliced,
    "split": _split,
}
