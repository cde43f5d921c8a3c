"""Rewrites a program into what the engine has: what has no positions is a vector, some activations stand alone."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.elementwise import scale_and_shift
from dynet_jax.inference.fold import scaling
from dynet_jax.inference.native.limits import (
    check_channels,
    check_convolution,
    check_function,
    check_image,
    check_pool,
    check_result,
    reads_image_as_bytes,
    unknown,
)
from dynet_jax.inference.program import (
    COEFFICIENTS,
    IMAGES,
    VECTOR,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Operation,
    Pool,
    Predictor,
    Program,
    Value,
)

IN_CONVOLUTIONS = (None, "relu", "relu6", "hard_swish")  # the engine has tiles for these


def lower(program: Program, arithmetic: str = "float32") -> Program:
    """The same function. Raises UserError for an operation that the engine has not.

    In bfloat16, maps are of pairs of channels; the image is one of two pairs then, the last channel zero. In int8, what
    reads the image is a convolution, whose result may be floats yet.
    """
    if program.image_size is not None:
        height, width = program.image_size
        raise UserError(
            f"the native engine takes images of any size, and this network does not work for others than those of "
            f"{height}x{width}; use runtime='jax'"
        )
    lowering = _Lowering(program, arithmetic)
    paired = arithmetic == "bfloat16"
    for operation in program.operations:
        lowering.add(operation)
    lowered = program._replace(operations=tuple(lowering.operations), values=lowering.values)
    check_result(lowered, paired)
    for operation in lowered.operations:
        check_channels(operation, lowered.values, paired)
    return lowered


class _Lowering:
    """Operations, as they are taken over one by one, and what their values are."""

    def __init__(self, program: Program, arithmetic: str):
        self.operations: list[Operation] = []
        self.values, self._result = dict(program.values), program.result
        self._paired, self._bytes = arithmetic == "bfloat16", arithmetic == "int8"
        self._from_floats = self._bytes and not reads_image_as_bytes(program)

    def _is(self, kind: str, value: int) -> bool:
        return self.values[value].kind == kind

    def add(self, op: Operation) -> None:
        coefficients = getattr(op, "coefficients", None)
        if any(self._is(COEFFICIENTS, value) for value in op.inputs if value != coefficients):
            raise unknown(op, "of coefficients")
        if coefficients is not None and not self._is(COEFFICIENTS, coefficients):
            raise unknown(op, "by coefficients that are not a predictor's")
        if self._bytes:
            check_image(op)
        if isinstance(op, Pool):
            op = _as_convolution(op, self.values[op.x].channels)
        if isinstance(op, Elementwise):
            op = _as_layer(op, self.values)
        if isinstance(op, Convolution):
            return self._convolution(op)
        if isinstance(op, Elementwise):
            check_function(op)
            maps_first = sorted(op.inputs, key=functools.partial(self._is, VECTOR))
            op = op._replace(inputs=tuple(maps_first))
        elif isinstance(op, Mean):
            op = op._replace(keep_positions=False)
        elif isinstance(op, MaxPool):
            check_pool(op, self.values)
        elif not isinstance(op, Channels | Predictor | Dense):
            raise unknown(op)
        self.operations.append(op)

    def _convolution(self, conv: Convolution) -> None:
        """A convolution, or what it is on a vector, and then what of it stands alone."""
        on_vector = self._is(VECTOR, conv.x)
        residual, apart = conv.residual, ()
        if residual is not None and (on_vector or self._is(VECTOR, residual)):
            residual, apart = None, (residual,)
        here = not apart and (on_vector or conv.activation in IN_CONVOLUTIONS)
        steps: list[tuple[str, tuple[int, ...]]] = [("add", apart)] if apart else []
        steps += [] if here or conv.activation is None else [(conv.activation, ())]
        if self._from_floats and conv.x == IMAGES and conv.y != self._result and not steps:
            steps = [("identity", ())]  # which makes bytes of floats
        free = 1 + max(self.values)
        results = [*range(free, free + len(steps)), conv.y]
        self.values |= dict.fromkeys(results, self.values[conv.y])
        self.values[results[0]] = self.values[conv.y]._replace(kind=self.values[conv.x].kind)
        own = conv._replace(
            y=results[0],
            residual=residual,
            activation=conv.activation if here else None,
        )
        check_convolution(own, on_vector)  # refuses a bank on a vector
        if on_vector:
            self.operations.append(Dense(own.name, own.x, own.y, own.kernel[0, 0], own.bias, own.activation))  # pyrefly: ignore[bad-index]
        else:
            self.operations.append(_for_pairs(own) if self._paired else own)
        for (function, others), x, y in zip(steps, results, results[1:]):
            self.add(Elementwise(conv.name, (x, *others), y, function))


def _as_convolution(pool: Pool, channels: int) -> Convolution:
    """The mean of a window, with padding by zeros, is a depthwise convolution."""
    unpadded = pool.padding == "VALID" or (not isinstance(pool.padding, str) and not np.any(pool.padding))
    if pool.function != "mean_with_padding" and not (pool.function == "mean" and unpadded):
        raise unknown(pool, f"by the {pool.function} of windows of {pool.kernel_size[0]}x{pool.kernel_size[1]}")
    kernel = np.full((*pool.kernel_size, 1, channels), 1 / np.prod(pool.kernel_size), np.float32)
    options: dict[str, Any] = {"strides": pool.strides, "padding": pool.padding, "feature_group_count": channels}
    return Convolution(pool.name, pool.x, pool.y, kernel, np.zeros(channels, np.float32), **options)


def _as_layer(op: Elementwise, values: Mapping[int, Value]) -> Operation:
    """A multiplication and addition of constants is a layer; another function is itself."""
    channels = values[op.y].channels
    if len(op.inputs) != 1 or values[op.inputs[0]].channels != channels:
        return op
    found = scale_and_shift(op, channels)
    return op if found is None else scaling(op.name, op.inputs[0], op.y, found, values[op.y].kind == VECTOR)


def _for_pairs(conv: Convolution) -> Convolution:
    kernel = conv.kernel
    if conv.x == IMAGES and conv.feature_group_count == 1:
        if isinstance(kernel, Bank):
            raise unknown(conv, "of images that is dynamic, in bfloat16 arithmetic")
        kernel = np.pad(kernel, [(0, 0), (0, 0), (0, 1), (0, 0)])
    *_, inputs, c_out = kernel.shape
    depthwise = inputs == 1 and c_out == conv.feature_group_count
    per_group = c_out // conv.feature_group_count
    if c_out % 2 or (not depthwise and (inputs % 2 or per_group % 2)):
        raise unknown(conv, "of odd numbers of channels in bfloat16 arithmetic")
    return conv._replace(kernel=kernel)
