"""Feature maps as networks see them: arrays, or opaque maps of the hardware that a program is traced for.

Between two of its own kernels, hardware may keep a map in another form than an array: not yet normalised, or in another
layout. Networks are written on `Map` and use the functions of this file, which give for a `FeatureMap` another one.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dynet_jax.ops.whole import whole

ACTIVATIONS = {
    name: getattr(jax.nn, name) for name in ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu")
}


class FeatureMap(abc.ABC):
    """A map [batch, *spatial, channels] in a form that belongs to one kind of hardware.

    It has `shape`, `ndim` and `dtype`, and is a pytree. An implementation (`dynet_jax.ops.implementation`) has at most
    one class of them. JAX's own functions take `to_array` of it.
    """

    shape: tuple[int, ...]
    ndim: int
    dtype: Any

    @classmethod
    @abc.abstractmethod
    def wrap(cls, x: jax.Array) -> "FeatureMap":
        """Returns the map of an array."""

    @abc.abstractmethod
    def to_array(self) -> jax.Array:
        """Returns [batch, *spatial, channels]."""

    @abc.abstractmethod
    def astype(self, dtype) -> "FeatureMap":
        """Returns the map with values of another type."""

    @abc.abstractmethod
    def conv(self, kernel: jax.Array, options: dict[str, Any]) -> "FeatureMap":
        """Returns `dynet_jax.ops.conv(self, kernel, **options)`."""

    @abc.abstractmethod
    def dynamic_conv(
        self, kernels: jax.Array, coefficients: jax.Array, fusion: str, options: dict[str, Any]
    ) -> "FeatureMap":
        """Returns `dynet_jax.ops.dynamic_conv(self, kernels, coefficients, fusion=fusion, **options)`."""

    @abc.abstractmethod
    def moments(self, groups: int) -> tuple[jax.Array, jax.Array]:
        """See `moments`."""

    @abc.abstractmethod
    def normalize(self, multiplier: jax.Array, offset: jax.Array, dtype) -> "FeatureMap":
        """Returns self * multiplier + offset, both [batch, channels] in float32."""

    @abc.abstractmethod
    def activate(self, activation: str) -> "FeatureMap":
        """Returns one of `ACTIVATIONS` of the map."""

    @abc.abstractmethod
    def spatial_mean(self) -> jax.Array:
        """Returns the mean over all positions, [batch, channels]."""


Map = jax.Array | FeatureMap


def to_array(x: Map) -> jax.Array:
    """Returns [batch, *spatial, channels]; an array is one already."""
    return x.to_array() if isinstance(x, FeatureMap) else x


def on_arrays(function: Callable) -> Callable:
    """Decorator: a function of arrays and options that takes, and then gives, opaque maps too.

    >>> double = on_arrays(lambda x: x + x)
    >>> double(jnp.ones(2)).tolist()
    [2.0, 2.0]
    """

    @functools.wraps(function)
    def call(*operands, **options):
        kinds = [type(operand) for operand in operands if isinstance(operand, FeatureMap)]
        result = function(*(to_array(operand) for operand in operands), **options)
        return jax.tree.map(kinds[0].wrap, result) if kinds else result

    return call


@whole
def activate(x: Map, activation: str | None) -> Map:
    """Returns one of `ACTIVATIONS` of a map; the map itself for None."""
    if activation is None:
        return x
    return x.activate(activation) if isinstance(x, FeatureMap) else ACTIVATIONS[activation](x)


@on_arrays
def add(x: Map, y: Map | jax.Array) -> Map:
    """Returns the sum of two maps, or of a map and what can be broadcast to it."""
    return x + y


@on_arrays
def scale(x: Map, factor: jax.Array) -> Map:
    """Returns x * factor, which can be broadcast to it."""
    return x * factor


@on_arrays
def concatenate(*operands: Map) -> Map:
    """Returns the channels of all maps side by side."""
    return jnp.concatenate(operands, axis=-1)


@on_arrays
def split(x: Map, features: int) -> tuple[Map, Map]:
    """Returns the first `features` channels, and the others."""
    return x[..., :features], x[..., features:]


def moments(x: Map, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns mean and mean of squares over each of `groups` parts of the batch, [groups, channels] in float32."""
    if isinstance(x, FeatureMap):
        return x.moments(groups)
    values = x.reshape(groups, -1, *x.shape[1:]).astype(jnp.float32)
    axes = tuple(range(1, values.ndim - 1))
    return values.mean(axes), jnp.square(values).mean(axes)


def normalize(
    x: Map, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype=None
) -> Map:
    """Returns (x - mean) / sqrt(var + epsilon) * scale + bias, computed in float32, in `dtype` or x's own.

    mean, var: [groups, channels] for equal parts of the batch, or [channels] for all of it; scale, bias: [channels].
    """
    multiplier = scale.astype(jnp.float32) * lax.rsqrt(var + epsilon)
    dtype = dtype or x.dtype
    if isinstance(x, FeatureMap):
        per_image = (_repeated(values, x.shape[0]) for values in (multiplier, bias - mean * multiplier))
        return x.normalize(*per_image, dtype)
    grouped, per_group = x, ()
    if mean.ndim == 2:
        grouped = x.reshape(mean.shape[0], -1, *x.shape[1:])
        per_group = (mean.shape[0], *(1,) * (x.ndim - 1))
    mean, multiplier = (values.reshape(*per_group, -1) for values in (mean, multiplier))
    y = (grouped.astype(jnp.float32) - mean) * multiplier + bias
    return y.astype(dtype).reshape(x.shape)


def _repeated(values: jax.Array, batch: int) -> jax.Array:
    """[groups, channels] or [channels] -> [batch, channels]"""
    values = values.reshape(-1, values.shape[-1])
    return jnp.repeat(values, batch // values.shape[0], axis=0)


def promote(dtype, *operands: Map | None) -> list[Map | None]:
    """Returns the operands in one type, None as it is: `dtype`, or for None the one that JAX promotes them to.

    >>> [x.dtype.name for x in promote(None, jnp.ones(2, jnp.int32), jnp.ones(2, jnp.bfloat16))]
    ['bfloat16', 'bfloat16']
    """
    if dtype is None:
        dtype = jnp.result_type(*(x.dtype for x in operands if x is not None))
        dtype = dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.promote_types(dtype, jnp.float32)

    def cast(x):
        return x.astype(dtype) if isinstance(x, FeatureMap) else jnp.asarray(x, dtype)

    return [None if x is None else cast(x) for x in operands]
