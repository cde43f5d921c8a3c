"""Follows a program in JAX: the reference for the other runtimes, and what StableHLO is exported from."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dynet_jax import ops
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.elementwise import FUNCTIONS
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    Flatten,
    MaxPool,
    Mean,
    Operation,
    Pool,
    Predictor,
    Program,
    Reduce,
)
from dynet_jax.layers.whole import max_pool, spatial_mean
from dynet_jax.ops.maps import Operand, activate

Arrays: TypeAlias = Sequence[Mapping[str, Operand]]


def arrays_of(program: Program) -> list[dict[str, np.ndarray]]:
    """The arrays of every operation, in order: what `run` takes as an argument instead of building it into the code."""
    return [_arrays(operation) for operation in program.operations]


def run(
    program: Program, arrays: Arrays, images: Float[Operand, "batch height width channels"]
) -> Float[jax.Array, "batch *positions classes"]:
    """The result of a program for normalised images."""
    result = values_of(program, arrays, images)[program.result]
    return _vector(result) if program.is_vector(program.result) else result


def values_of(
    program: Program, arrays: Arrays, images: Float[Operand, "batch height width channels"]
) -> dict[int, Any]:
    """Returns all values of a program for normalised images, by number."""
    values: dict[int, Any] = {IMAGES: images}
    for operation, weights in zip(program.operations, arrays):
        with jax.named_scope(operation.name):
            inputs = [values[number] for number in operation.inputs]
            results = _RUN[type(operation)](operation, weights, *inputs)
        if isinstance(operation, Predictor):
            values.update(zip(operation.ys, results))
        else:
            values[operation.y] = results
    return values


def _arrays(operation: Operation) -> dict[str, np.ndarray]:
    if isinstance(operation, Predictor):
        arrays = {"kernel": operation.output[0], "bias": operation.output[1]}
        arrays |= dict(zip(("hidden_kernel", "hidden_bias"), operation.hidden or ()))
        return arrays | dict(zip(("lower", "upper"), operation.limits or ()))
    if not isinstance(operation, Convolution | Dense):
        return {}
    kernel, bias = operation.kernel, {"bias": operation.bias}
    if not isinstance(kernel, Bank):
        return {"kernel": kernel, **bias}
    return {"kernel": kernel.kernels, **bias, **({} if kernel.scales is None else {"scales": kernel.scales})}


def _vector(x: jax.Array) -> jax.Array:
    """[batch, 1, 1, channels] -> [batch, channels], for a vector of either form."""
    return x.reshape(x.shape[0], x.shape[-1])


def _map(x: jax.Array) -> jax.Array:
    """[batch, channels] -> [batch, 1, 1, channels]; a map stays as it is."""
    return x[:, None, None] if x.ndim == 2 else x


def _alike(inputs: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """So that those without positions can be beside those with."""
    return inputs if len({x.ndim for x in inputs}) == 1 else list(map(_map, inputs))


def _convolution(operation: Convolution, weights, x, *rest):
    options = {
        "strides": operation.strides,
        "padding": operation.padding,
        "kernel_dilation": operation.kernel_dilation,
        "feature_group_count": operation.feature_group_count,
    }
    x = _map(x)
    kernel, residual = weights["kernel"], rest[-1] if operation.residual is not None else None
    if operation.coefficients is None:
        y = ops.conv(x, kernel, **options)
    else:
        coefficients = rest[0]
        if "scales" in weights:
            coefficients = coefficients * weights["scales"]
        y = ops.dynamic_conv(x, kernel.astype(x.dtype), coefficients, fusion="kernel", **options)
    y = y + weights["bias"]
    y = y if residual is None else y + residual
    return activate(y, operation.activation)


def _predictor(operation: Predictor, weights, x) -> Sequence[jax.Array]:
    y = spatial_mean(x)
    if operation.limits is not None:
        y = jnp.clip(y, weights["lower"], weights["upper"])
    if operation.hidden is not None:
        y = nn.relu(y @ weights["hidden_kernel"] + weights["hidden_bias"])
    logits = y @ weights["kernel"] + weights["bias"]
    group_size, start, coefficients = operation.group_size, 0, []
    for features in operation.features:
        part = logits[:, start : start + group_size * features].reshape(x.shape[0], group_size, features)
        coefficients.append(nn.sigmoid(part) if operation.activation == "sigmoid" else nn.softmax(part, axis=1))
        start += group_size * features
    return coefficients


def _elementwise(operation: Elementwise, weights, *inputs):
    left = iter(_alike(inputs))
    constants = operation.constants or (None,) * len(inputs)
    x = inputs[0]
    operands = [next(left) if constant is None else _typed(constant, x) for constant in constants]
    return FUNCTIONS[operation.function](*operands)


def _typed(constant: np.ndarray, x: jax.Array) -> jax.Array:
    """A constant in the type of floats that it is used with."""
    floats = jnp.issubdtype(x.dtype, jnp.floating) and constant.dtype != bool
    return jnp.asarray(constant, x.dtype if floats else constant.dtype)


def _pool(operation: Pool, weights, x):
    options = {"strides": operation.strides, "padding": operation.padding}
    if operation.function == "min":
        return -nn.max_pool(-x, operation.kernel_size, **options)
    if operation.function == "max":
        return nn.max_pool(x, operation.kernel_size, **options)
    with_padding = operation.function == "mean_with_padding"
    return nn.avg_pool(x, operation.kernel_size, count_include_pad=with_padding, **options)


def _reduce(operation: Reduce, weights, x):
    function = getattr(jnp, operation.function)
    if operation.groups is None:
        return function(x, axis=(1, 2))
    return function(x.reshape(*x.shape[:-1], operation.groups, -1), axis=-1)


def _channels(operation: Channels, weights, *inputs):
    x = jnp.concatenate(_alike(inputs), axis=-1) if len(inputs) > 1 else inputs[0]
    x = x[..., operation.start : operation.stop]
    return x if operation.permutation is None else x[..., np.asarray(operation.permutation)]


_RUN: dict[type, Any] = {
    Convolution: _convolution,
    Predictor: _predictor,
    Dense: lambda op, weights, x: activate(_vector(x) @ weights["kernel"] + weights["bias"], op.activation),
    Elementwise: _elementwise,
    Pool: _pool,
    Reduce: _reduce,
    Flatten: lambda op, weights, x: x.reshape(x.shape[0], -1),
    MaxPool: lambda op, weights, x: max_pool(x, op.size, op.strides, op.padding),
    Mean: lambda op, weights, x: spatial_mean(x, keepdims=op.keep_positions),
    Channels: _channels,
}
