"""Reads the operations of a program out of a traced network, or says what it has that programs do not.

Every value is followed by what it is: a map, a vector, which has no positions, or coefficients. So what depends on
the size of the images, which is another one later, is found: it is not enough that shapes agree in the trace.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from dynet_jax.errors import UserError
from dynet_jax.inference.activations import activation_of, called
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    IMAGES,
    MAP,
    VECTOR,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    Mean,
    Operation,
    Program,
    Value,
    outputs,
)
from dynet_jax.inference.value_kinds import UNKNOWN, common, kind_of_layer, of_reshape, of_sum
from dynet_jax.ops.maps import ACTIVATIONS

BATCH = 2  # of the trace: with 1, it would be taken for an axis that may go
RESHAPES = ("squeeze", "reshape", "broadcast_in_dim")
FUNCTIONS = {"add": "add", "mul": "multiply", "add_any": "add", "logistic": "sigmoid"}
BETWEEN_LAYERS = (*FUNCTIONS, "concatenate", "slice", "split", *RESHAPES)

whole_p = core.Primitive("whole_operation")
whole_p.multiple_results = True
whole_p.def_abstract_eval(lambda *_, maker, avals: avals)


class Traced(NamedTuple):
    """number: of a value of the program. kind: that of the value, or one of `value_kinds`."""

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
    (result,) = reader.call(closed.jaxpr, [Traced(IMAGES, MAP)])
    if result is None:
        raise UserError("the network's result does not depend on the images")
    kept = _needed(reader.operations, result.number)
    strange = next((operation for operation in kept if isinstance(operation, _Unknown)), None)
    if strange is not None:
        raise UserError(
            f"the network has an operation {strange.name} between its layers, which programs do not have; they "
            f"have add, mul, concatenate, slices of channels, {', '.join(ACTIVATIONS)}, and the functions of "
            "dynet_jax.layers.whole"
        )
    rank = len(closed.jaxpr.outvars[0].aval.shape)
    if (result.kind, rank) not in ((MAP, 4), (VECTOR, 2)):
        raise UserError(f"the network's result is of shape {closed.jaxpr.outvars[0].aval.shape}, not [batch, classes]")
    if kept and result.kind == VECTOR:
        kept[-1] = _as_classifier(kept[-1])
    used = {IMAGES, *(value for operation in kept for value in outputs(operation))}
    return Program(tuple(kept), result.number, {number: reader.values[number] for number in sorted(used)})


def _needed(operations, result: int) -> list:
    needed, kept = {result}, []
    for operation in reversed(operations):
        if needed.intersection(outputs(operation)):
            kept.append(operation)
            needed.update(operation.inputs)
    return kept[::-1]


def _as_classifier(last: Operation) -> Operation:
    """A convolution whose result is a vector is a linear layer."""
    if not isinstance(last, Convolution) or isinstance(last.kernel, Bank) or last.feature_group_count > 1:
        return last
    return Dense(last.name, last.x, last.y, last.kernel[0, 0], last.bias)


class _Reader:
    def __init__(self):
        self.operations: list[Operation | _Unknown] = []
        self.values = {IMAGES: Value(MAP, 3)}  # of the program

    def call(self, jaxpr, inputs: Sequence[Traced | None]) -> list[Traced | None]:
        """The results of a function; None is a constant."""
        values: dict[Any, Traced | None] = dict(zip(jaxpr.invars, inputs))

        def value(variable):
            return None if isinstance(variable, core.Literal) else values.get(variable)

        for equation in jaxpr.eqns:
            values.update(zip(equation.outvars, self._equation(equation, list(map(value, equation.invars)))))
        return list(map(value, jaxpr.outvars))

    def _equation(self, equation, inputs) -> Sequence[Traced | None]:
        if all(value is None for value in inputs):
            return [None] * len(equation.outvars)
        if None not in inputs:
            results = self._whole(equation, inputs) if equation.primitive is whole_p else self._plain(equation, inputs)
            if results is not None:
                return results
        function = called(equation)
        if function is None or activation_of(equation):
            return self._unknown(equation, inputs)
        return self.call(function, inputs)

    def _unknown(self, equation, inputs) -> list[Traced]:
        known = [value for value in inputs if value is not None]
        name = repr(_name(equation)) + _circumstances(equation, inputs)
        results = [self._new(UNKNOWN, channels=0) for _ in equation.outvars]
        self.operations += [_Unknown(name, tuple(v.number for v in known), result.number) for result in results]
        return results

    def _new(self, kind: str, channels: int) -> Traced:
        number = len(self.values)
        self.values[number] = Value(kind, channels)
        return Traced(number, kind)

    def _add(self, make, inputs: Sequence[Traced], kind: str, channels: int) -> list[Traced]:
        """make(numbers of the inputs, number of the result) -> the operation"""
        result = self._new(kind, channels)
        self.operations.append(make(tuple(value.number for value in inputs), result.number))
        return [result]

    def _whole(self, equation, inputs) -> list[Traced] | None:
        """A layer, or a function that is one operation (`dynet_jax.ops.whole`)."""
        numbers = tuple(value.number for value in inputs)
        ys = tuple(range(len(self.values), len(self.values) + len(equation.outvars)))
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
        return [self._new(kind, variable.aval.shape[-1]) for variable in equation.outvars]

    def _plain(self, equation, inputs) -> list[Traced] | None:
        """One of the operations between layers that programs have; None if it is not."""
        name, params, kind = equation.primitive.name, equation.params, common([value.kind for value in inputs])
        shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        before, after = shapes[0], shapes[-1]
        if name in RESHAPES:
            kind = of_reshape(inputs[0].kind, before, after, params)
            return None if kind is None else [inputs[0]._replace(kind=kind)]
        if name in ("copy", "stop_gradient") or (name == "convert_element_type" and _are_floats(equation)):
            return inputs
        function = FUNCTIONS.get(name) or activation_of(equation)
        if function in ("add", "multiply"):
            kind = of_sum([value.kind for value in inputs], shapes)
        if kind is None:
            return None
        if function is not None:
            return self._add(lambda xs, y: Elementwise(function, xs, y, function), inputs, kind, after[-1])
        last = len(before) - 1
        if name == "concatenate" and params["dimension"] == last:
            return self._add(lambda xs, y: Channels("concatenate", xs, y, 0, after[-1]), inputs, kind, after[-1])
        if name == "slice" and before[:-1] == after[:-1] and not params["strides"]:
            return self._slices(inputs, kind, [(params["start_indices"][-1], params["limit_indices"][-1])])
        if name == "split" and params["axis"] == last:
            stops = [sum(params["sizes"][: i + 1]) for i in range(len(params["sizes"]))]
            return self._slices(inputs, kind, list(zip([0, *stops], stops)))
        return None

    def _slices(self, inputs, kind, bounds) -> list[Traced]:
        results = []
        for start, stop in ((int(start), int(stop)) for start, stop in bounds):
            part = functools.partial(Channels, "slice", start=start, stop=stop)
            results += self._add(lambda xs, y, part=part: part(inputs=xs, y=y), inputs, kind, stop - start)
        return results


def _name(equation) -> str:
    if equation.primitive is whole_p:
        return equation.params["maker"].name
    return activation_of(equation) or equation.primitive.name


def _circumstances(equation, inputs: Sequence[Traced | None]) -> str:
    """What is unknown in an operation that programs have for other values."""
    kinds = [value.kind for value in inputs if value is not None]
    name = equation.primitive.name
    known = equation.primitive is whole_p or name in BETWEEN_LAYERS or activation_of(equation)
    if UNKNOWN in kinds or not known:
        return ""
    if None in inputs:
        return " with a constant"
    return " of maps of different sizes" if kinds == [MAP, MAP] and name in ("add", "mul") else f" ({', '.join(kinds)})"


def _are_floats(equation) -> bool:
    """Returns whether all values are floats; a rounding to integers, which changes values, has others."""
    return all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in (*equation.invars, *equation.outvars))
