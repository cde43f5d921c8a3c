"""A map that is normalised and activated by whoever reads it, so that what BatchNorm makes of it is never written."""

import abc
import dataclasses
import math
from typing import Any, Self

import jax
import jax.numpy as jnp

from dynet_jax.ops import maps
from dynet_jax.ops.conv import conv
from dynet_jax.ops.maps import ACTIVATIONS, FeatureMap, Operand, to_array
from dynet_jax.ops.normalizing import LIMITS
from dynet_jax.ops.partition import over_images
from dynet_jax.ops.strips import channel_sums, cut, for_strips, join, sum_of_strips


@dataclasses.dataclass(frozen=True, eq=False)
class DeferredMap(FeatureMap):
    """activation(x * multiplier + offset), for whoever reads it to compute.

    A kernel that takes such a map normalises what it reads, and one that gives the sums of what it writes spares the
    next BatchNorm a pass. Everything else asks for `to_array`. Each kind of hardware has a subclass with its kernels.

    Attributes:
      x: [batch, *spatial, channels], as a convolution gives it, or `strips` of every image as if they were images.
      multiplier, offset: [batch, channels], float32; None for a map that is x itself.
      activation: 'relu', 'relu6' or None.
      sums: those of x (`channel_sums`) if they are known.
      strips: see `dynet_jax.ops.strips`; 1 but on TPUs.
    """

    x: jax.Array
    multiplier: jax.Array | None = None
    offset: jax.Array | None = None
    activation: str | None = dataclasses.field(default=None, metadata={"static": True})
    sums: jax.Array | None = None
    strips: int = dataclasses.field(default=1, metadata={"static": True})

    shape = property(lambda self: (self.x.shape[0] // self.strips, self.x.shape[1] * self.strips, *self.x.shape[2:]))
    ndim = property(lambda self: self.x.ndim)
    dtype = property(lambda self: self.x.dtype)

    @staticmethod
    @abc.abstractmethod
    def convolve_and_sum(x: "DeferredMap", kernels, coefficients, fusion, options) -> tuple[jax.Array, jax.Array]:
        """Returns the dynamic convolution, by a kernel if it has one, and its `channel_sums`."""

    @classmethod
    def wrap(cls, x: jax.Array) -> Self:
        return cls(x)

    def to_array(self) -> jax.Array:
        return join(self._values(), self.strips)

    def astype(self, dtype) -> Self:
        return dataclasses.replace(self, x=self.x.astype(dtype))

    def in_strips(self, strips: int) -> Self:
        """Returns the same map, cut in another way."""
        if strips == self.strips:
            return self
        return dataclasses.replace(self, x=cut(join(self.x, self.strips), strips), strips=strips)

    def opened(self, strips: int) -> tuple[jax.Array, jax.Array | None, str | None]:
        """Returns what a kernel reads: x and [multiplier, offset] (or None), both in strips, and the activation."""
        x = self.in_strips(strips).x
        if self.multiplier is None or self.offset is None:
            return x, None, self.activation
        return x, for_strips(jnp.stack([self.multiplier, self.offset]), strips, 1), self.activation

    def conv(self, kernel: Operand, options: dict[str, Any]) -> Self:
        return self.wrap(to_array(conv(self.to_array(), kernel, **options)))

    def dynamic_conv(self, kernels: Operand, coefficients: Operand, fusion: str, options: dict[str, Any]) -> Self:
        def convolve(x, kernels, coefficients):
            return self.convolve_and_sum(x, kernels, coefficients, fusion, options)

        own = dataclasses.replace(self, sums=None)
        y, sums = over_images(convolve, (0, None, 0), (0, 1))(own, kernels, coefficients)
        return type(self)(y, sums=sums)

    def moments(self, groups: int) -> tuple[jax.Array, jax.Array]:
        if self.multiplier is not None or (self.sums is None and self.strips == 1):
            return maps.moments(self.to_array(), groups)
        sums = channel_sums(self.x, self.strips) if self.sums is None else self.sums
        mean, mean_of_squares = sums.reshape(2, groups, -1, self.shape[-1]).sum(2) / (
            math.prod(self.shape[:-1]) // groups
        )
        return mean, mean_of_squares

    def normalize(self, multiplier: jax.Array, offset: jax.Array, dtype) -> Self:
        if self.multiplier is not None:
            return type(self)(self.to_array()).normalize(multiplier, offset, dtype)
        return dataclasses.replace(self.astype(dtype), multiplier=multiplier, offset=offset)

    def activate(self, activation: str) -> Self:
        if self.multiplier is not None and self.activation is None and activation in LIMITS:
            return dataclasses.replace(self, activation=activation)
        return type(self)(ACTIVATIONS[activation](self._values()), strips=self.strips)

    def spatial_mean(self) -> jax.Array:
        """Returns [batch, channels] in the map's type; from the sums, if it follows from them."""
        positions = math.prod(self.shape[1:-1])
        if self.multiplier is not None and self.offset is not None and self.sums is not None and not self.activation:
            mean = self.sums[0] / positions * self.multiplier + self.offset
        else:
            values = self._values().astype(jnp.float32)  # the sum of a large map needs it
            mean = sum_of_strips(values.sum(tuple(range(1, self.ndim - 1))), self.strips) / positions
        return mean.astype(self.dtype)

    def _values(self) -> jax.Array:
        """Returns the map in strips."""
        if self.multiplier is None or self.offset is None:
            return self.x
        per_image = (self.x.shape[0], *(1,) * (self.ndim - 2), self.x.shape[-1])
        affine = (for_strips(values, self.strips).reshape(per_image) for values in (self.multiplier, self.offset))
        multiplier, offset = affine
        y = (self.x.astype(jnp.float32) * multiplier + offset).astype(self.dtype)
        return y if self.activation is None else ACTIVATIONS[self.activation](y)
