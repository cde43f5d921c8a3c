"""A map that is normalised where it is read, so that what BatchNorm makes of it is never written to memory."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dynet_jax.ops.strips import cut, for_strips, join, sum_of_strips

READ_ACTIVATIONS = {None: lambda x: x, "relu": jax.nn.relu, "relu6": jax.nn.relu6}
LIMITS = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}  # the same, as what is cut off


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normalized:
    """activation(x * multiplier + offset), for whoever reads it to compute.

    On TPUs a Pallas kernel is a wall to XLA: around it BatchNorm and activation cost passes over the map of their own.
    A kernel that takes a `Normalized` map does them to what it reads, and one that gives the sums of what it writes
    spares the next BatchNorm a pass. Everything else asks for `as_array`.

    Attributes:
      x: [batch, *spatial, channels], as a convolution gives it, or `strips` of every image as if they were images.
      multiplier, offset: [batch, channels], float32.
      activation: 'relu', 'relu6' or None.
      sums: those of x (`channel_sums`) if they are known.
      strips: see `dynet_jax.ops.strips`.

    >>> x = Normalized(jnp.ones((2, 4, 4, 3)), jnp.full((2, 3), 2.0), jnp.full((2, 3), -3.0), "relu")
    >>> x.shape, as_array(x).max().item()
    ((2, 4, 4, 3), 0.0)
    """

    x: jax.Array
    multiplier: jax.Array
    offset: jax.Array
    activation: str | None = dataclasses.field(default=None, metadata={"static": True})
    sums: jax.Array | None = None
    strips: int = dataclasses.field(default=1, metadata={"static": True})

    shape = property(lambda self: (self.x.shape[0] // self.strips, self.x.shape[1] * self.strips, *self.x.shape[2:]))
    ndim = property(lambda self: self.x.ndim)
    dtype = property(lambda self: self.x.dtype)

    def in_strips(self, strips: int) -> "Normalized":
        """The same, cut in another way."""
        if strips == self.strips:
            return self
        return dataclasses.replace(self, x=cut(join(self.x, self.strips), strips), strips=strips)


def as_array(x: jax.Array | Normalized) -> jax.Array:
    """The map itself, [batch, *spatial, channels]; an array is one already."""
    if not isinstance(x, Normalized):
        return x
    return join(_normalize(x), x.strips)


def _normalize(x: Normalized) -> jax.Array:
    """In strips."""
    per_image = (x.x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    multiplier, offset = (for_strips(values, x.strips).reshape(per_image) for values in (x.multiplier, x.offset))
    return READ_ACTIVATIONS[x.activation]((x.x.astype(jnp.float32) * multiplier + offset).astype(x.dtype))


def channel_sums(x: jax.Array, strips: int = 1) -> jax.Array:
    """Of x and of its squares, over all positions of each image: [2, batch, channels], float32.

    x: [batch, *spatial, channels], or cut into strips.

    >>> channel_sums(jnp.full((1, 2, 2, 1), 3.0)).ravel().tolist()
    [12.0, 36.0]
    """
    values, axes = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    return sum_of_strips(jnp.stack([values.sum(axes), jnp.square(values).sum(axes)]), strips, 1)


def mean_over_positions(x: Normalized) -> jax.Array:
    """[batch, channels] in x's dtype; from the sums, if it follows from them."""
    if x.activation is None and x.sums is not None:
        mean = x.sums[0] / math.prod(x.shape[1:-1]) * x.multiplier + x.offset
    else:
        values = _normalize(x).astype(jnp.float32)  # the sum of a large map needs it
        mean = sum_of_strips(values.sum(tuple(range(1, x.ndim - 1))), x.strips) / math.prod(x.shape[1:-1])
    return mean.astype(x.dtype)
