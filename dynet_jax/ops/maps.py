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
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Float32, Shaped

from dynet_jax.ops.whole import whole

ACTIVATIONS = {
    name: getattr(jax.nn, name) for name in ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu")
}


Operand = Array | np.ndarray  # what JAX's functions take


class FeatureMap(abc.ABC):
    """A map [batch, *spatial, channels] in a form that belongs to one kind of hardware.

    It has `shape`, `ndim` and `dtype`, and is a pytree. An implementation (`dynet_jax.ops.implementation`) has at most
    one class of them. JAX's own functions take `to_array` of it.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abc.abstractmethod
    def ndim(self) -> int: ...

    @property
    @abc.abstractmethod
    def dtype(self) -> Any: ...

    @classmethod
    @abc.abstractmethod
    def wrap(cls, x: Array) -> "FeatureMap":
        """Returns the map of an array."""

    @abc.abstractmethod
    def to_array(self) -> Shaped[Array, "batch *spatial channels"]:
        """Returns the map in the form that JAX's functions take."""

    @abc.abstractmethod
    def astype(self, dtype) -> "FeatureMap":
        """Returns the map with values of another type."""

    @abc.abstractmethod
    def conv(self, kernel: Operand, options: dict[str, Any]) -> "FeatureMap":
        """Returns `dynet_jax.ops.conv(self, kernel, **options)`."""

    @abc.abstractmethod
    def dynamic_conv(
        self, kernels: Operand, coefficients: Operand, fusion: str, options: dict[str, Any]
    ) -> "FeatureMap":
        """Returns `dynet_jax.ops.dynamic_conv(self, kernels, coefficients, fusion=fusion, **options)`."""

    @abc.abstractmethod
    def moments(self, groups: int) -> tuple[Float32[Array, "groups channels"], Float32[Array, "groups channels"]]:
        """See `moments`."""

    @abc.abstractmethod
    def normalize(
        self, multiplier: Float32[Array, "batch channels"], offset: Float32[Array, "batch channels"], dtype
    ) -> "FeatureMap":
        """Returns self * multiplier + offset."""

    @abc.abstractmethod
    def activate(self, activation: str) -> "FeatureMap":
        """Returns one of `ACTIVATIONS` of the map."""

    @abc.abstractmethod
    def spatial_mean(self) -> Shaped[Array, "batch channels"]:
        """Returns the mean over all positions."""


Map = Operand | FeatureMap


def to_array(x: Shaped[Map, "*shape"]) -> Shaped[Array, "*shape"]:
    """Returns the map as an array; an array is one already."""
    return x.to_array() if isinstance(x, FeatureMap) else jnp.asarray(x)


def on_arrays(function: Callable) -> Callable:
    """Decorator: a function of arrays and options that takes, and then gives, opaque maps too.

    >>> double = on_arrays(lambda x: x + x)
    >>> double(jnp.ones(2)).tolist()
    [2.0, 2.0]
    """

    @functools.wraps(function)
    def call(*operands, **options):
        kinds = [type(operand) for operand in operands if isinstance(operand, FeatureMap)]
        arrays = (to_array(operand) if isinstance(operand, Map) else operand for operand in operands)
        result = function(*arrays, **options)
        return jax.tree.map(kinds[0].wrap, result) if kinds else result

    return call


@whole
def activate(x: Shaped[Map, "*shape"], activation: str | None) -> Shaped[Map, "*shape"]:
    """Returns one of `ACTIVATIONS` of a map; the map itself for None."""
    if activation is None:
        return x
    return x.activate(activation) if isinstance(x, FeatureMap) else ACTIVATIONS[activation](x)


@on_arrays
def add(x: Shaped[Array, "*shape"], y: Shaped[Array, "..."]) -> Shaped[Array, "*shape"]:
    """Returns the sum of two maps, or of a map and what can be broadcast to it."""
    return x + y


@on_arrays
def scale(x: Shaped[Array, "*shape"], factor: Shaped[Array, "..."]) -> Shaped[Array, "*shape"]:
    """Returns x * factor, which can be broadcast to it."""
    return x * factor


@on_arrays
def concatenate(*operands: Shaped[Array, "*positions _"]) -> Shaped[Array, "*positions channels"]:
    """Returns the channels of all maps side by side."""
    return jnp.concatenate(operands, axis=-1)


@on_arrays
def split(
    x: Shaped[Array, "*positions channels"], features: int
) -> tuple[Shaped[Array, "*positions {features}"], Shaped[Array, "*positions channels-{features}"]]:
    """Returns the first `features` channels, and the others."""
    return x[..., :features], x[..., features:]


def moments(
    x: Shaped[Map, "batch *spatial channels"], groups: int
) -> tuple[Float32[Array, "{groups} channels"], Float32[Array, "{groups} channels"]]:
    """Returns mean and mean of squares over each of `groups` parts of the batch."""
    if isinstance(x, FeatureMap):
        return x.moments(groups)
    values = jnp.asarray(x).reshape(groups, -1, *x.shape[1:]).astype(jnp.float32)
    axes = tuple(range(1, values.ndim - 1))
    return values.mean(axes), jnp.square(values).mean(axes)


def normalize(
    x: Shaped[Map, "batch *spatial channels"],
    mean: Float[Operand, "*groups channels"],
    var: Float[Operand, "*groups channels"],
    scale: Float[Operand, " channels"],
    bias: Float[Operand, " channels"],
    epsilon: float,
    dtype=None,
) -> Shaped[Map, "batch *spatial channels"]:
    """Returns (x - mean) / sqrt(var + epsilon) * scale + bias, computed in float32, in `dtype` or x's own.

    Means and variances are those of equal parts of the batch, or have no axis of groups and are those of all of it.
    """
    multiplier = scale.astype(jnp.float32) * lax.rsqrt(var + epsilon)
    dtype = dtype or x.dtype
    if isinstance(x, FeatureMap):
        offset = _repeated(bias - mean * multiplier, x.shape[0])
        return x.normalize(_repeated(multiplier, x.shape[0]), offset, dtype)
    grouped, per_group = x, ()
    if mean.ndim == 2:
        grouped = x.reshape(mean.shape[0], -1, *x.shape[1:])
        per_group = (mean.shape[0], *(1,) * (x.ndim - 1))
    mean, multiplier = (values.reshape(*per_group, -1) for values in (mean, multiplier))
    y = (grouped.astype(jnp.float32) - mean) * multiplier + bias
    return y.astype(dtype).reshape(x.shape)


def _repeated(values: Operand, batch: int) -> Array:
    """[groups, channels] or [channels] -> [batch, channels]"""
    values = values.reshape(-1, values.shape[-1])
    return jnp.repeat(values, batch // values.shape[0], axis=0)


def promote(dtype, *operands: Map | None) -> list[Any]:
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
