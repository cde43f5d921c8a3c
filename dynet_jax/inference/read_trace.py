"""Reads the operations of a program out of a traced network, or says what it has that programs do not.

Every value is followed by what it is: a map, a vector, which has no positions, or coefficients. So what depends on
the size of the images, which is another one later, is found: it is not enough that shapes agree in the trace.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from dynet_jax.errors import UserError
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    Mean,
    Operation,
    Program,
    outputs,
)
from dynet_jax.inference.value_kinds import (
    MAP,
    UNKNOWN,
    VECTOR,
    common,
    kind_of_layer,
    of_reshape,
    of_sum,
)

BATCH = 2  # of the trace: with 1, it would be taken for an axis that may go
# As `jax.nn` calls them, and as they are called here.
ACTIVATIONS = {name: name for name in ("relu", "relu6", "hard_sigmoid", "sigmoid", "silu")} | {
    "hard_silu": "hard_swish"
}
# Primitives that call a function once, and their parameter that has it. Loops and conditions are none of them.
CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat", "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("core_call", "closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
RESHAPES = ("squeeze", "reshape", "broadcast_in_dim")
BETWEEN_LAYERS = ("add", "mul", "add_any", "logistic", "concatenate", "slice", "split", *RESHAPES)

whole_p = core.Primitive("whole_operation")
whole_p.multiple_results = True
whole_p.def_abstract_eval(lambda *_, maker, avals: avals)


class Value(NamedTuple):
    """number: of a value of the program. kind: one of `value_kinds`."""

    number: int
    kind: str


class _Unknown(NamedTuple):
    """An operation that programs do not have, which matters if the result needs it."""

    name: str
    inputs: tuple[int, ...]
    y: int


def program_of_trace(closed) -> Program:
    """Returns the program of a traced network, without operations that the result does not need.

    Raises UserError for what programs do not have.
    """
    if len(closed.jaxpr.outvars) != 1:
        raise UserError(f"the network has {len(closed.jaxpr.outvars)} results, where programs have one")
    reader = _Reader()
    (result,) = reader.call(closed.jaxpr, [Value(IMAGES, MAP)])
    if result is None:
        raise UserError("the network's result does not depend on the images")
    kept = _needed(reader.operations, result.number)
    strange = next((operation for operation in kept if isinstance(operation, _Unknown)), None)
    if strange is not None:
        raise UserError(
            f"the network has an operation {strange.name} between its layers, which programs do not have; they "
            f"have add, mul, concatenate, slices of channels, {', '.join(ACTIVATIONS.values())}, and the functions of "
            "dynet_jax.layers.whole"
        )
    rank = len(closed.jaxpr.outvars[0].aval.shape)
    if (result.kind, rank) not in ((MAP, 4), (VECTOR, 2)):
        raise UserError(f"the network's result is of shape {closed.jaxpr.outvars[0].aval.shape}, not [batch, classes]")
    if kept and result.kind == VECTOR:
        kept[-1] = _as_classifier(kept[-1])
    return Program(tuple(kept), result.number)


def _needed(operations, result: int) -> list:
    needed, kept = {result}, []
    for operation in reversed(operations):
        if needed.intersection(outputs(operation)):
            kept.append(operation)
            needed.update(operation.inputs)
    return kept[::-1]


def _as_classifier(last: Operation) -> Operation:
    """A convolution whose result is a vector is a linear layer."""
    plain = isinstance(last, Convolution) and last.coefficients is None and last.feature_group_count == 1
    return Dense(last.name, last.x, last.y, last.kernel[0, 0], last.bias) if plain else last


class _Reader:
    def __init__(self):
        self.operations: list[Operation | _Unknown] = []
        self._count = IMAGES

    def call(self, jaxpr, inputs: Sequence[Value | None]) -> list[Value | None]:
        """The results of a function; None is a constant."""
        values: dict[Any, Value | None] = dict(zip(jaxpr.invars, inputs))

        def value(variable):
            return None if isinstance(variable, core.Literal) else values.get(variable)

        for equation in jaxpr.eqns:
            values.update(zip(equation.outvars, self._equation(equation, list(map(value, equation.invars)))))
        return list(map(value, jaxpr.outvars))

    def _equation(self, equation, inputs) -> Sequence[Value | None]:
        if all(value is None for value in inputs):
            return [None] * len(equation.outvars)
        if None not in inputs:
            results = self._whole(equation, inputs) if equation.primitive is whole_p else self._plain(equation, inputs)
            if results is not None:
                return results
        function = _called(equation)
        if function is None or _activation(equation):
            return self._unknown(equation, inputs)
        return self.call(function, inputs)

    def _unknown(self, equation, inputs) -> list[Value]:
        known = [value for value in inputs if value is not None]
        name = repr(_name(equation)) + _circumstances(equation, inputs)
        results = [Value(self._new(), UNKNOWN) for _ in equation.outvars]
        self.operations += [_Unknown(name, tuple(v.number for v in known), result.number) for result in results]
        return results

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _add(self, make, inputs: Sequence[Value], kind: str) -> list[Value]:
        """make(numbers of the inputs, number of the result) -> the operation"""
        y = self._new()
        self.operations.append(make(tuple(value.number for value in inputs), y))
        return [Value(y, kind)]

    def _whole(self, equation, inputs) -> list[Value] | None:
        """A layer, or a function of `dynet_jax.layers.whole`."""
        numbers = tuple(value.number for value in inputs)
        ys = tuple(self._new() for _ in equation.outvars)
        operation = equation.params["maker"].make(numbers, ys)
        if isinstance(operation, Mean) and inputs[0].kind == VECTOR:
            return [inputs[0]]
        kind = kind_of_layer(operation, [value.kind for value in inputs], equation.outvars[0].aval.shape)
        if kind is None:
            return None
        if isinstance(operation, Dense) and kind == MAP:
            kernel = operation.kernel[None, None]
            operation = Convolution(operation.name, operation.x, operation.y, kernel, operation.bias)
        self.operations.append(operation)
        return [Value(y, kind) for y in ys]

    def _plain(self, equation, inputs) -> list[Value] | None:
        """One of the operations between layers that programs have; None if it is not."""
        name, params, kind = equation.primitive.name, equation.params, common([value.kind for value in inputs])
        shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        before, after = shapes[0], shapes[-1]
        if name in RESHAPES:
            kind = of_reshape(inputs[0].kind, before, after, params)
            return None if kind is None else [inputs[0]._replace(kind=kind)]
        if name in ("copy", "stop_gradient") or (name == "convert_element_type" and _are_floats(equation)):
            return inputs
        if name in ("add", "mul", "add_any"):
            function, kind = "multiply" if name == "mul" else "add", of_sum([value.kind for value in inputs], shapes)
            return kind and self._add(lambda xs, y: Elementwise(function, xs, y, function), inputs, kind)
        if kind is None:
            return None
        function = "sigmoid" if name == "logistic" else _activation(equation)
        if function is not None:
            return self._add(lambda xs, y: Elementwise(function, xs, y, function), inputs, kind)
        last = len(before) - 1
        if name == "concatenate" and params["dimension"] == last:
            return self._add(lambda xs, y: Channels("concatenate", xs, y, 0, after[-1]), inputs, kind)
        if name == "slice" and before[:-1] == after[:-1] and not params["strides"]:
            return self._slices(inputs, kind, [(params["start_indices"][-1], params["limit_indices"][-1])])
        if name == "split" and params["axis"] == last:
            stops = [sum(params["sizes"][: i + 1]) for i in range(len(params["sizes"]))]
            return self._slices(inputs, kind, list(zip([0, *stops], stops)))
        return None

    def _slices(self, inputs, kind, bounds) -> list[Value]:
        parts = ((int(start), int(stop)) for start, stop in bounds)
        return [self._add(lambda xs, y, p=p: Channels("slice", xs, y, *p), inputs, kind)[0] for p in parts]


def _name(equation) -> str:
    if equation.primitive is whole_p:
        return equation.params["maker"].name
    return _activation(equation) or equation.primitive.name


def _circumstances(equation, inputs: Sequence[Value | None]) -> str:
    """What is unknown in an operation that programs have for other values."""
    kinds = [value.kind for value in inputs if value is not None]
    name = equation.primitive.name
    known = equation.primitive is whole_p or name in BETWEEN_LAYERS or _activation(equation)
    if UNKNOWN in kinds or not known:
        return ""
    if None in inputs:
        return " with a constant"
    return " of maps of different sizes" if kinds == [MAP, MAP] and name in ("add", "mul") else f" ({', '.join(kinds)})"


def _are_floats(equation) -> bool:
    """Not so for a rounding to integers, which changes values."""
    return all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in (*equation.invars, *equation.outvars))


def _activation(equation) -> str | None:
    """As it is called here, if it is that function of `jax.nn`: a function of the user may have the same name."""
    name = equation.params.get("name")
    if name not in ACTIVATIONS or len(equation.invars) != 1:
        return None
    aval = equation.invars[0].aval
    function = _called(equation)
    return ACTIVATIONS[name] if function and str(function) == _text_of(name, aval.shape, aval.dtype) else None


def _called(equation):
    """The function that is called, or None."""
    function = equation.params.get(CALLS.get(equation.primitive.name))
    return getattr(function, "jaxpr", function)


@functools.lru_cache(maxsize=256)
def _text_of(name: str, shape, dtype) -> str:
    """What a function of `jax.nn` consists of; some are a function within another one, for their derivatives."""
    function = jax.make_jaxpr(getattr(jax.nn, name))(jax.ShapeDtypeStruct(shape, dtype)).jaxpr
    while len(function.eqns) == 1 and (inner := _called(function.eqns[0])) is not None:
        function = inner
    return str(function)
