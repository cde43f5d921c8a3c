"""Reads the operations of a program out of a traced network, or says what it has that programs do not.

Every value is followed by what it is: a map, a vector, which has no positions, or coefficients. So what depends on
the size of the images, which is another one later, is found: it is not enough that shapes agree in the trace.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from dynet_jax.errors import UserError
from dynet_jax.inference.activations import activation_of, called
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    IMAGES,
    MAP,
    VECTOR,
    Convolution,
    Dense,
    Flatten,
    Mean,
    Operation,
    Pool,
    Program,
    Value,
    outputs,
)
from dynet_jax.inference.read_operations import BETWEEN_LAYERS, read_operation
from dynet_jax.inference.source_line import line_of
from dynet_jax.inference.traced import CHANNELS, MAP_AXES, ONE, VECTOR_AXES, Axes, Constant, Traced
from dynet_jax.inference.value_kinds import UNKNOWN, kind_of, kind_of_layer

BATCH = 2  # of the trace: with 1, it would be taken for an axis that may go

whole_p = core.Primitive("whole_operation")
whole_p.multiple_results = True
whole_p.def_abstract_eval(lambda *_, maker, avals: avals)


class _Unknown(NamedTuple):
    """An operation that programs do not have, which matters if the result needs it."""

    name: str
    inputs: tuple[int, ...]
    y: int
    line: str


def program_of_trace(closed) -> Program:
    """Returns the program of a traced network, without operations that the result does not need.

    It is for images of one size if it flattens a map, or has a constant with positions. Paddings of windows are
    `dynet_jax.inference.windows.Candidates`.

    Raises UserError for what programs do not have.
    """
    if len(closed.jaxpr.outvars) != 1:
        raise UserError(f"the network has {len(closed.jaxpr.outvars)} results, where programs have one")
    reader = Reader()
    (result,) = reader.call(closed.jaxpr, [Traced(IMAGES, MAP_AXES)], closed.consts)
    if isinstance(result, Constant):
        raise UserError("the network's result does not depend on the images")
    kept = _needed(reader.operations, result.number)
    strange = next((operation for operation in kept if isinstance(operation, _Unknown)), None)
    if strange is not None:
        raise UserError(
            f"{strange.line}the network has an operation {strange.name}, which programs do not have; "
            "--format=stablehlo and runtime='jax' take any network, docs/inference.md says what programs have"
        )
    shape, kind = closed.jaxpr.outvars[0].aval.shape, reader.kind(result)
    if (kind, len(shape)) not in ((MAP, 4), (VECTOR, 2)):
        raise UserError(f"the network's result is of shape {shape}, not [batch, classes]")
    if kept and kind == VECTOR:
        kept[-1] = _as_classifier(kept[-1])
    used = {IMAGES, *(value for operation in kept for value in outputs(operation))}
    values = {number: reader.values[number] for number in sorted(used)}
    of_one_size = any(isinstance(operation, Flatten) or _has_positions(operation) for operation in kept)
    size = closed.jaxpr.invars[0].aval.shape[1:3]
    return Program(tuple(kept), result.number, values, size if of_one_size else None)


def _used(jaxpr) -> list:
    """Returns the equations that a result needs: what a layer is made of is in the trace as well, and is not read."""
    needed, used = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(map(id, equation.outvars)):
            used.append(equation)
            needed.update(map(id, equation.invars))
    return used[::-1]


def _has_positions(operation: Operation) -> bool:
    return any(constant is not None and constant.ndim == 3 for constant in getattr(operation, "constants", ()))


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


class Reader:
    """The operations that have been read, and what all values are.

    Attributes:
      operations: so far, those that no result needs among them.
      values: of the program, by number.
      sums: of a value that is a sum over positions, the value that is the mean, and the number of positions, or of
        those that each window sees.
      pools: the operations of means of windows, by their results.
    """

    def __init__(self):
        self.operations: list[Operation | _Unknown] = []
        self.values = {IMAGES: Value(MAP, 3)}
        self.sums: dict[int, tuple[int, int | np.ndarray]] = {}
        self.pools: dict[int, Pool] = {}
        self._calls: list[Any] = []  # the equations whose functions are being read

    def kind(self, value: Traced) -> str:
        """Returns what a value is in the trace."""
        return kind_of(self.values[value.number].kind, value.axes)

    def add(self, make, inputs: Sequence[Traced], kind: str, axes: Axes, channels: int) -> Traced:
        """make(numbers of the inputs, number of the result) -> the operation, whose result is returned."""
        result = self._new(kind, channels, axes)
        self.operations.append(make(tuple(value.number for value in inputs), result.number))
        return result

    def call(self, jaxpr, inputs: Sequence[Traced | Constant], constants: Sequence) -> list[Traced | Constant]:
        """Returns the results of a function."""
        values: dict[Any, Traced | Constant] = dict(zip(jaxpr.invars, inputs))
        values.update((v, Constant(lambda array=array: array)) for v, array in zip(jaxpr.constvars, constants))

        def value(variable):
            if isinstance(variable, core.Literal):
                return Constant(lambda: variable.val)
            return values[variable]

        for equation in _used(jaxpr):
            values.update(zip(equation.outvars, self._equation(equation, list(map(value, equation.invars)))))
        return list(map(value, jaxpr.outvars))

    def _equation(self, equation, inputs) -> Sequence[Traced | Constant]:
        function = called(equation)
        if all(isinstance(value, Constant) for value in inputs):
            if function is not None:
                return self._called(equation, function, inputs)
            if equation.primitive is whole_p:
                return self._unknown(equation, inputs)
            return _computed(equation, inputs)
        if UNKNOWN not in [self.kind(value) for value in inputs if isinstance(value, Traced)]:
            read = self._whole if equation.primitive is whole_p else self._operation
            results = read(equation, inputs)
            if results is not None:
                return results
        if function is None or (activation_of(equation) and len(inputs) == 1):
            return self._unknown(equation, inputs)
        return self._called(equation, function, inputs)

    def _called(self, equation, function, inputs):
        self._calls.append(equation)
        results = self.call(function, inputs, _constants(equation))
        self._calls.pop()
        return results

    def _operation(self, equation, inputs):
        return read_operation(self, equation, inputs)

    def _unknown(self, equation, inputs) -> list[Traced]:
        known = [value for value in inputs if isinstance(value, Traced)]
        name = repr(_name(equation)) + self._circumstances(equation, inputs)
        results = [self._new(UNKNOWN, 0, ()) for _ in equation.outvars]
        numbers = tuple(value.number for value in known)
        # JAX keeps what it has traced of a function, with the lines of its first call: the outermost call is this one.
        line = next(filter(None, map(line_of, (*self._calls, equation))), "")
        self.operations += [_Unknown(name, numbers, result.number, line) for result in results]
        return results

    def _new(self, kind: str, channels: int, axes: Axes) -> Traced:
        number = len(self.values)
        self.values[number] = Value(kind, channels)
        return Traced(number, axes)

    def _whole(self, equation, inputs) -> list[Traced] | None:
        """A layer, or a function that is one operation (`dynet_jax.ops.whole`)."""
        maker, constants = equation.params["maker"], [value for value in inputs if isinstance(value, Constant)]
        if len(constants) != maker.constants or any(
            isinstance(v, Traced) for v in inputs[len(inputs) - len(constants) :]
        ):
            return None
        inputs = inputs[: len(inputs) - len(constants)]
        numbers = tuple(value.number for value in inputs)
        ys = tuple(range(len(self.values), len(self.values) + len(equation.outvars)))
        operation = maker.make(numbers, ys, *(value.array for value in constants))
        kinds, shapes = list(map(self.kind, inputs)), [variable.aval.shape for variable in equation.outvars]
        if isinstance(operation, Mean) and kinds == [VECTOR]:
            axes = inputs[0].axes
            return [Traced(numbers[0], axes if len(axes) == len(shapes[0]) else (axes[0], axes[-1]))]
        kind = kind_of_layer(operation, kinds, shapes[0])
        if kind is None:
            return None
        if isinstance(operation, Dense) and kind == MAP:
            kernel = operation.kernel[None, None]
            operation = Convolution(operation.name, operation.x, operation.y, kernel, operation.bias)
        self.operations.append(operation)
        return [self._new(kind, shape[-1], _axes(kind, shape)) for shape in shapes]

    def _circumstances(self, equation, inputs) -> str:
        """What is unknown in an operation that programs have for other values."""
        kinds = [self.kind(value) for value in inputs if isinstance(value, Traced)]
        name = equation.primitive.name
        known = equation.primitive is whole_p or name in BETWEEN_LAYERS or activation_of(equation)
        if UNKNOWN in kinds or not known:
            return ""
        if len(kinds) < len(inputs) and equation.primitive is not whole_p:
            return f" with a constant ({', '.join(kinds)})"
        binary = kinds == [MAP, MAP] and len(inputs) == 2
        return " of maps of different sizes" if binary and name != "concatenate" else f" ({', '.join(kinds)})"


def _axes(kind: str, shape: Sequence[int]) -> Axes:
    """Returns the axes of the result of a layer."""
    if kind == MAP:
        return MAP_AXES
    if kind == VECTOR:
        return VECTOR_AXES if len(shape) == 2 else (VECTOR_AXES[0], ONE, ONE, CHANNELS)
    return ()


def _constants(equation) -> Sequence:
    """Returns the arrays that a called function has in it."""
    closed = [value for value in equation.params.values() if isinstance(value, core.ClosedJaxpr)]
    return closed[0].consts if closed else ()


def _computed(equation, inputs: Sequence[Constant]) -> list[Constant]:
    """The results of an operation on constants; it is computed for those that are needed."""
    done: list[list] = []

    def result(index):
        if not done:
            values = [value.exact for value in inputs]
            found = equation.primitive.bind(*values, **equation.params)
            done.append(list(found) if equation.primitive.multiple_results else [found])
        return done[0][index]

    return [Constant(lambda index=index: result(index)) for index in range(len(equation.outvars))]


def _name(equation) -> str:
    if equation.primitive is whole_p:
        return equation.params["maker"].name
    return activation_of(equation) or equation.primitive.name
