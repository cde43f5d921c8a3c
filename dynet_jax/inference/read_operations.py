"""How programs have what lies between the layers of a traced network: functions of elements, and all others' table.

Each function here takes the reader of the trace, an equation and its inputs, and returns the results, or None for what
programs do not have.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from dynet_jax.inference.activations import activation_of
from dynet_jax.inference.elementwise import OF_PRIMITIVES
from dynet_jax.inference.program import MAP, VECTOR, Elementwise
from dynet_jax.inference.read_reductions import REDUCTIONS, divided_sum
from dynet_jax.inference.read_shapes import SHAPES, chosen, shapes_of
from dynet_jax.inference.read_windows import WINDOWS
from dynet_jax.inference.traced import (
    BATCH,
    CHANNELS,
    COLUMNS,
    GROUP,
    MEMBER,
    OF_CHANNELS,
    ONE,
    POSITIONS,
    ROWS,
    Constant,
    Traced,
    channels,
    together,
)


def read_operation(reader, equation, inputs: Sequence[Traced | Constant]) -> Sequence[Traced | Constant] | None:
    """Returns the results of an operation, which are added to the reader's; None for one that programs do not have."""
    activation = activation_of(equation) if len(inputs) == 1 else None
    if activation is not None:
        return _elementwise(reader, equation, inputs, activation)
    read = _READ.get(equation.primitive.name)
    return None if read is None else read(reader, equation, inputs)


def _elementwise(reader, equation, inputs, function) -> list[Traced] | None:
    *shapes, after = shapes_of(equation)
    values = [value for value in inputs if isinstance(value, Traced)]
    if any(reader.values[value.number].kind not in (MAP, VECTOR) for value in values):
        return None
    ranked = [value.axes if isinstance(value, Traced) else (ONE,) * len(after) for value in inputs]
    axes = together(ranked, [shape or (1,) * len(after) for shape in shapes])
    axes = None if axes is None else _with_lengths(axes, after)
    if axes is None:
        return None
    kind = MAP if MAP in [reader.values[value.number].kind for value in values] else VECTOR
    constants = [_of_channels(value, axes, after) if isinstance(value, Constant) else None for value in inputs]
    if any(constant is None for constant, value in zip(constants, inputs) if isinstance(value, Constant)):
        return None
    if kind == VECTOR and any(constant is not None and constant.ndim == 3 for constant in constants):
        return None
    count = channels(axes, after)
    values = [_in_all_channels(reader, value, axes, after) for value in values]
    operands = tuple(constants) if len(values) < len(inputs) else ()
    return [
        reader.add(lambda xs, y: Elementwise(function, xs, y, function, operands), values, kind, axes, count),
    ]


def _with_lengths(axes, after):
    """The axes of a result that a constant has made longer than the values."""
    places = {1: ROWS, 2: COLUMNS} if len(after) == 4 else {}
    places[len(after) - 1] = CHANNELS
    if any(label == ONE and n > 1 and place not in places for place, (label, n) in enumerate(zip(axes, after))):
        return None
    return tuple(
        places[place] if label == ONE and n > 1 else label for place, (label, n) in enumerate(zip(axes, after))
    )


def _of_channels(constant: Constant, axes, after) -> np.ndarray | None:
    """A constant as [], [channels], or [rows, columns, channels], or None where it differs between images."""
    array = constant.array
    array = array.reshape((1,) * (len(after) - array.ndim) + array.shape)
    for axis in range(array.ndim):
        if array.shape[axis] > 1 and (array == array.take([0], axis)).all():
            array = array.take([0], axis)
    if array.size == 1:
        return array.reshape(())
    varies = [label for label, n in zip(axes, array.shape) if n > 1]
    if BATCH in varies or ONE in varies:
        return None
    own = [index for index, label in enumerate(axes) if label in OF_CHANNELS]
    if any(array.shape[index] > 1 for index in own):  # all channels, or one
        shape = [after[i] if i in own else n for i, n in enumerate(array.shape)]
        array = np.broadcast_to(array, shape)
    last = int(np.prod([array.shape[i] for i in own], initial=1))
    if not set(varies) & set(POSITIONS):
        return array.reshape(last)
    places = [axes.index(label) for label in POSITIONS]
    rows, columns = (after[i] for i in places)
    shape = [after[i] if i in places else n for i, n in enumerate(array.shape)]
    return np.broadcast_to(array, shape).reshape(rows, columns, last)


def _in_all_channels(reader, value: Traced, axes, after) -> Traced:
    """A value with one number for each group, or member of groups, beside one with a number for each channel."""
    pairs = [(own, n) for own, label, n in zip(value.axes, axes, after) if label in (GROUP, MEMBER)]
    if len(pairs) != 2 or sorted(label in OF_CHANNELS for label, _ in pairs) != [False, True]:
        return value
    (of_group, groups), (_, members) = pairs
    order = np.arange(groups).repeat(members) if of_group == GROUP else np.tile(np.arange(members), groups)
    return reader.add(chosen(tuple(order.tolist())), [value], reader.values[value.number].kind, axes, order.size)


def _function(name: str) -> Callable:
    return functools.partial(_elementwise, function=name)


def _scaled(reader, equation, inputs, function):
    """A product, which may make a mean of a sum."""
    constant = next((value for value in inputs if isinstance(value, Constant)), None)
    if constant is not None and function == "multiply" and constant.array.size == 1 and constant.array.item() != 0:
        found = divided_sum(reader, equation, inputs, 1 / constant.array.item())
        if found is not None:
            return found
    return _elementwise(reader, equation, inputs, function)


def _divided(reader, equation, inputs):
    _, divisor = inputs
    if isinstance(divisor, Constant):
        found = divided_sum(reader, equation, inputs, divisor.array)
        if found is not None:
            return found
    return _elementwise(reader, equation, inputs, "divide")


def _power(reader, equation, inputs):
    exponent = Constant(lambda: np.float32(equation.params["y"]))
    return _with_constants(reader, equation, [*inputs, exponent], "power")


def _with_constants(reader, equation, inputs, function):
    """A function whose constants are parameters of the equation."""
    values = [value for value in inputs if isinstance(value, Traced)]
    constants = tuple(None if isinstance(value, Traced) else value.array for value in inputs)
    number, axes = values[0]
    kind, count = reader.values[number]
    if kind not in (MAP, VECTOR):
        return None
    return [reader.add(lambda xs, y: Elementwise(function, xs, y, function, constants), values, kind, axes, count)]


def _clamped(reader, equation, inputs):
    least, value, greatest = inputs
    shape = equation.outvars[0].aval.shape
    if not isinstance(value, Traced) or any(isinstance(bound, Traced) for bound in (least, greatest)):
        return None
    if reader.values[value.number].kind not in (MAP, VECTOR):
        return None
    for function, bound in (("maximum", least), ("minimum", greatest)):
        constant = _of_channels(bound, value.axes, shape)
        if constant is None or constant.ndim == 3:
            return None
        found = _with_constants(reader, equation, [value, Constant(lambda c=constant: c)], function)
        if found is None:
            return None
        (value,) = found
    return [value]


def _selected(reader, equation, inputs):
    condition, *cases = inputs
    if len(cases) != 2:
        return None
    if isinstance(condition, Constant):
        chosen = condition.array
        if (chosen == chosen.flat[0]).all():
            return [cases[int(chosen.flat[0])]]
    elif equation.invars[0].aval.dtype != jnp.bool_:
        return None
    order = (0, 2, 1)  # `where` has what holds where it is true first
    swapped = _Reordered(equation, order)
    return _elementwise(reader, swapped, [inputs[i] for i in order], "where")


class _Reordered:
    """An equation with its inputs in another order."""

    def __init__(self, equation, order):
        self.invars = [equation.invars[i] for i in order]
        self.outvars, self.params, self.primitive = equation.outvars, equation.params, equation.primitive


def _converted(reader, equation, inputs):
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    if jnp.issubdtype(before, jnp.floating) and jnp.issubdtype(after, jnp.floating):
        return inputs  # a rounding to integers, which changes values, has others
    if before == jnp.bool_ and jnp.issubdtype(after, jnp.floating):
        ones, zeros = (Constant(lambda n=n: np.float32(n)) for n in (1, 0))
        return _with_constants(reader, equation, [*inputs, ones, zeros], "where")
    return None


def _kept(reader, equation, inputs):
    return inputs


_READ: dict[str, Callable] = {
    **{name: _function(function) for name, function in OF_PRIMITIVES.items()},
    **REDUCTIONS,
    **SHAPES,
    **WINDOWS,
    "mul": functools.partial(_scaled, function="multiply"),
    "div": _divided,
    "integer_pow": _power,
    "clamp": _clamped,
    "select_n": _selected,
    "convert_element_type": _converted,
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), _kept),
}
BETWEEN_LAYERS = tuple(_READ)
