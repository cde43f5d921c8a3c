"""Rewrites a program so that a convolution does what follows it: normalisation, addition, activation.

This is exact up to rounding: a BatchNorm in evaluation scales and shifts channels, convolution is linear, and so is the
fusion of kernels, so that the scale can go into every kernel of the bank.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dynet_jax.inference.bank import Bank
from dynet_jax.inference.elementwise import scale_and_shift
from dynet_jax.inference.program import (
    IMAGES,
    MAP,
    Convolution,
    Dense,
    Elementwise,
    Normalization,
    Operation,
    Program,
    outputs,
)
from dynet_jax.ops.maps import ACTIVATIONS


def fold(program: Program) -> Program:
    """The same function with fewer operations.

    Normalisations go into the convolution or linear layer before them, or become one themselves; additions become the
    `residual` of a convolution, and activations its `activation`.
    """
    program = _into_producer(program, _normalized)
    program = program._replace(operations=tuple(_linear(operation, program) for operation in program.operations))
    program = _into_producer(program, _activated)
    program = _residuals(program)
    return _into_producer(program, _activated)


def _into_producer(program: Program, merge: Callable[[Operation, Operation], Operation | None]) -> Program:
    """Merge operations of one input into the operation that gives it, where it is needed by nothing else."""
    uses, kept, place = program.uses(), [], {}
    for operation in program.operations:
        before = place.get(operation.inputs[0]) if len(operation.inputs) == 1 else None
        merged = merge(kept[before], operation) if before is not None and uses[operation.inputs[0]] == 1 else None
        if before is None or merged is None:
            before = len(kept)
            kept.append(operation)
        else:
            kept[before] = merged
        place.update(dict.fromkeys(outputs(operation), before))
    return program._replace(operations=tuple(kept))


def _normalized(before: Operation, operation: Operation) -> Operation | None:
    if not isinstance(before, Convolution | Dense) or _does_more(before):
        return None
    found = None
    if isinstance(operation, Normalization):
        found = operation.scale, operation.shift
    elif isinstance(operation, Elementwise) and _as_wide(operation, before.bias.size):
        found = scale_and_shift(operation, before.bias.size)
    if found is None:
        return None
    scale, shift = found
    bias = (before.bias * scale + shift).astype(np.float32)
    weights: dict[str, Any] = {"kernel": _scaled(before.kernel, scale), "bias": bias}
    return before._replace(**weights, y=operation.y)


def _as_wide(operation: Elementwise, channels: int) -> bool:
    """Returns whether no constant has more channels than the value."""
    return all(constant is None or constant.size in (1, channels) for constant in operation.constants)


def _scaled(kernel: np.ndarray | Bank, scale: np.ndarray) -> np.ndarray | Bank:
    if isinstance(kernel, Bank):
        return Bank((kernel.dequantized * scale).astype(np.float32))
    return (kernel * scale).astype(np.float32)


def _does_more(operation: Convolution | Dense) -> bool:
    return operation.activation is not None or getattr(operation, "residual", None) is not None


def _linear(operation: Operation, program: Program) -> Operation:
    """A normalisation that is left is a depthwise convolution of one position; of a vector, a diagonal linear layer."""
    if not isinstance(operation, Normalization):
        return operation
    return scaling(
        operation.name, operation.x, operation.y, (operation.scale, operation.shift), program.is_vector(operation.x)
    )


def scaling(name: str, x: int, y: int, scale_and_shift: tuple[np.ndarray, np.ndarray], of_vector: bool) -> Operation:
    """Returns x * scale + shift of each channel as a layer."""
    scale, shift = (array.astype(np.float32) for array in scale_and_shift)
    if of_vector:
        return Dense(name, x, y, np.diag(scale), shift)
    return Convolution(name, x, y, scale.reshape(1, 1, 1, -1), shift, feature_group_count=scale.size)


def _activated(before: Operation, operation: Operation) -> Operation | None:
    if not isinstance(operation, Elementwise) or not isinstance(before, Convolution | Dense):
        return None
    if before.activation is not None or operation.function not in ACTIVATIONS:
        return None
    return before._replace(activation=operation.function, y=operation.y)


def _residuals(program: Program) -> Program:
    """A sum of which one part comes straight from a convolution, after the other part: the convolution adds it."""
    uses, kept = program.uses(), []
    place = {IMAGES: -1}
    for operation in program.operations:
        target = None
        is_sum = isinstance(operation, Elementwise) and operation.function == "add" and len(operation.inputs) == 2
        if is_sum and all(program.values[n] == (MAP, program.values[operation.y].channels) for n in operation.inputs):
            target = _adding(operation.inputs, kept, place, uses)
        if target is None:
            place.update(dict.fromkeys(outputs(operation), len(kept)))
            kept.append(operation)
        else:
            index, residual = target
            kept[index] = kept[index]._replace(residual=residual, y=operation.y)
            place[operation.y] = index
    return program._replace(operations=tuple(kept))


def _adding(values, kept, place, uses) -> tuple[int, int] | None:
    """(which operation can add, what it adds)"""
    for own, other in (values, values[::-1]):
        index = place[own]
        if index < 0 or place[other] >= index or uses[own] != 1:
            continue
        if isinstance(kept[index], Convolution) and not _does_more(kept[index]):
            return index, other
    return None
