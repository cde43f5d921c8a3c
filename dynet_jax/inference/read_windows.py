"""Pooling, convolutions and matrix products of a traced network, which have not come from layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax

from dynet_jax.inference.program import MAP, VECTOR, Convolution, Dense, Elementwise, MaxPool, Pool
from dynet_jax.inference.traced import CHANNELS, MAP_AXES, Constant, Traced
from dynet_jax.inference.windows import candidates

POOLS = {"reduce_window_max": "max", "reduce_window_min": "min", "reduce_window_sum": "mean_with_padding"}


def _pooled(reader, equation, inputs, function) -> list[Traced] | None:
    (value,), params = inputs, equation.params
    window, strides = params["window_dimensions"], params["window_strides"]
    shape, plain = equation.invars[0].aval.shape, (*params["base_dilation"], *params["window_dilation"])
    pads = params["padding"]
    apart = (window[0], window[-1], strides[0], strides[-1]) == (1, 1, 1, 1)
    if reader.kind(value) != MAP or len(window) != 4 or not apart or set(plain) != {1}:
        return None
    if any(n for i in (0, 3) for n in pads[i]) or min(n for pair in pads for n in pair) < 0:
        return None
    size, step = (int(window[1]), int(window[2])), (int(strides[1]), int(strides[2]))
    padding: Any = candidates(shape[1:3], size, step, pads[1:3])

    def make(xs, y):
        if function == "max" and size[0] == size[1] and step[0] == step[1]:
            return MaxPool("max_pool", xs[0], y, size[0], step[0], padding)
        return Pool(f"{function.partition('_')[0]}_pool", xs[0], y, function, size, step, padding)

    features = reader.values[value.number].channels
    pool = reader.add(make, [value], MAP, MAP_AXES, features)
    if function != "mean_with_padding":
        return [pool]
    constants = (None, np.asarray(math.prod(size), np.float32))
    total = reader.add(lambda xs, y: Elementwise("sum", xs, y, "multiply", constants), [pool], MAP, MAP_AXES, features)
    reader.sums[total.number] = pool.number, _counts(shape[1:3], size, step, pads[1:3])
    reader.pools[pool.number] = reader.operations[-2]
    return [total]


def _counts(shape, size, strides, pads) -> np.ndarray:
    """How many elements of a map each of its windows sees."""
    counts = np.ones(())
    for n, k, s, (low, high) in zip(shape, size, strides, pads):
        inside = np.pad(np.ones(n), (low, high))
        seen = [inside[start : start + k].sum() for start in range(0, n + low + high - k + 1, s)]
        counts = np.multiply.outer(counts, seen)
    return counts.astype(np.float32)


def _convolved(reader, equation, inputs) -> list[Traced] | None:
    (value, kernel), params = inputs, equation.params
    if not isinstance(value, Traced) or not isinstance(kernel, Constant) or reader.kind(value) != MAP:
        return None
    usual = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    plain = params["batch_group_count"] == 1 and set(params["lhs_dilation"]) == {1}
    if params["dimension_numbers"] != usual or not plain or min(n for pair in params["padding"] for n in pair) < 0:
        return None
    weights, dilation, strides = kernel.array, tuple(params["rhs_dilation"]), tuple(params["window_strides"])
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weights.shape)]
    options: dict[str, Any] = {
        "strides": strides,
        "padding": candidates(equation.invars[0].aval.shape[1:3], reach, strides, params["padding"]),
        "kernel_dilation": dilation,
        "feature_group_count": params["feature_group_count"],
    }
    features = weights.shape[-1]
    bias = np.zeros(features, np.float32)
    return [
        reader.add(
            lambda xs, y: Convolution("convolution", xs[0], y, weights, bias, **options),
            [value],
            MAP,
            MAP_AXES,
            features,
        )
    ]


def _multiplied(reader, equation, inputs) -> list[Traced] | None:
    """The channels of a value, multiplied by a matrix."""
    value, matrix = inputs
    if not isinstance(value, Traced) or not isinstance(matrix, Constant):
        return None
    kind = reader.kind(value)
    last = len(equation.invars[0].aval.shape) - 1
    if kind not in (MAP, VECTOR) or equation.params["dimension_numbers"] != (((last,), (0,)), ((), ())):
        return None
    kernel = matrix.array
    if kernel.ndim != 2:
        return None
    return [_linear(reader, value, kind, kernel)]


def _linear(reader, value: Traced, kind: str, kernel: np.ndarray) -> Traced:
    bias, axes = np.zeros(kernel.shape[-1], np.float32), (*value.axes[:-1], CHANNELS)
    if kind == VECTOR:
        return reader.add(lambda xs, y: Dense("product", xs[0], y, kernel, bias), [value], kind, axes, kernel.shape[-1])
    return reader.add(
        lambda xs, y: Convolution("product", xs[0], y, kernel[None, None], bias), [value], kind, axes, kernel.shape[-1]
    )


WINDOWS: dict[str, Callable[..., Sequence[Traced] | None]] = {
    **{
        name: lambda reader, equation, inputs, function=function: _pooled(reader, equation, inputs, function)
        for name, function in POOLS.items()
    },
    "conv_general_dilated": _convolved,
    "dot_general": _multiplied,
}
