"""Rewrites a program into what the engine has: what has no positions is a vector, some activations stand alone."""

from collections.abc import Iterator

import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    Mean,
    Operation,
    Predictor,
    Program,
    outputs,
)

IN_CONVOLUTIONS = (None, "relu", "relu6", "hard_swish")  # the engine has tiles for these
MAX_TAPS, MAX_GROUP_SIZE = 256, 16
PADDINGS = ("SAME", "VALID", "TORCH")


def lower(program: Program, *, paired: bool = False) -> Program:
    """The same function. Raises UserError for an operation that the engine has not.

    paired: for maps of pairs of channels; the image is one of two pairs then, the last channel zero.
    """
    free = 1 + max(value for operation in program.operations for value in outputs(operation))
    vectors: set[int] = set()  # values without positions
    lowered: list[Operation] = []
    for operation in program.operations:
        if isinstance(operation, Mean):
            operation = operation._replace(keep_positions=False)
        if isinstance(operation, Elementwise):
            maps_first = sorted(operation.inputs, key=vectors.__contains__)
            operation = operation._replace(inputs=tuple(maps_first))
        if isinstance(operation, Convolution) and operation.x in vectors:
            operation = _as_dense(operation)
        if isinstance(operation, Mean | Dense) or set(operation.inputs) <= vectors:
            vectors.update(outputs(operation))
        if isinstance(operation, Convolution):
            operation = _for_pairs(operation) if paired else operation
            _check(operation)
            parts = list(_parts(operation, free))
            free += len(parts) - 1
            lowered += parts
        else:
            lowered.append(operation)
    program = program._replace(operations=tuple(lowered))
    channels = channels_of(program)
    for operation in program.operations:
        if isinstance(operation, Elementwise) and len({channels[value] for value in operation.inputs}) > 1:
            what = f"{operation.function} maps of different channels"
            raise UserError(f"the native engine cannot {what}; use runtime='jax'")
    return program


def _as_dense(conv: Convolution) -> Dense:
    if isinstance(conv.kernel, Bank) or conv.residual is not None or conv.kernel.shape[:2] != (1, 1):
        raise _unknown(conv, "on a map of one position")
    if conv.feature_group_count != 1:
        raise _unknown(conv, "in groups on a map of one position")
    return Dense(conv.name, conv.x, conv.y, conv.kernel[0, 0], conv.bias, conv.activation)


def _parts(conv: Convolution, free: int) -> Iterator[Operation]:
    if conv.activation in IN_CONVOLUTIONS:
        yield conv
    else:
        yield conv._replace(activation=None, y=free)
        yield Elementwise(conv.name, (free,), conv.y, conv.activation)


def _for_pairs(conv: Convolution) -> Convolution:
    kernel = conv.kernel
    if conv.x == IMAGES and conv.feature_group_count == 1:
        if isinstance(kernel, Bank):
            raise _unknown(conv, "of images that is dynamic, in bfloat16 arithmetic")
        kernel = np.pad(kernel, [(0, 0), (0, 0), (0, 1), (0, 0)])
    *_, inputs, c_out = kernel.kernels.shape if isinstance(kernel, Bank) else kernel.shape
    depthwise = inputs == 1 and c_out == conv.feature_group_count
    per_group = c_out // conv.feature_group_count
    if c_out % 2 or (not depthwise and (inputs % 2 or per_group % 2)):
        raise _unknown(conv, "of odd numbers of channels in bfloat16 arithmetic")
    return conv._replace(kernel=kernel)


def _check(conv: Convolution) -> None:
    shape = conv.kernel.kernels.shape if isinstance(conv.kernel, Bank) else (1, *conv.kernel.shape)
    if shape[0] > MAX_GROUP_SIZE or shape[1] * shape[2] > MAX_TAPS:
        raise _unknown(conv, f"with kernels of {shape[1]}x{shape[2]}, {shape[0]} of them")
    if isinstance(conv.padding, str) and conv.padding not in PADDINGS:
        raise _unknown(conv, f"with padding {conv.padding!r}")


def _unknown(conv: Convolution, what: str) -> UserError:
    return UserError(f"the native engine has no convolution {what} ({conv.name}); use runtime='jax'")


def features_of(program: Program) -> dict[int, int]:
    """How many coefficients per kernel each value of a predictor has."""
    predictors = (operation for operation in program.operations if isinstance(operation, Predictor))
    return {y: features for predictor in predictors for y, features in zip(predictor.ys, predictor.features)}


def channels_of(program: Program) -> dict[int, int]:
    """How many channels each value has, but for coefficients."""
    channels = {IMAGES: 3}
    for operation in program.operations:
        if isinstance(operation, Convolution | Dense):
            channels[operation.y] = operation.bias.size
        elif isinstance(operation, Channels):
            channels[operation.y] = operation.stop - operation.start
        elif not isinstance(operation, Predictor):
            channels[operation.y] = channels[operation.inputs[0]]
    return channels
