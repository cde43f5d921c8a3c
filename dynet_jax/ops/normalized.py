"""A map that is normalised where it is read, so that what BatchNorm makes of it is never written to memory."""

import dataclasses
import math

import jax
import jax.numpy as jnp

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
      x: [batch, *spatial, channels], as a convolution gives it.
      multiplier, offset: [batch, channels], float32.
      activation: 'relu', 'relu6' or None.
      sums: those of x (`channel_sums`) if they are known.

    >>> x = Normalized(jnp.ones((2, 4, 4, 3)), jnp.full((2, 3), 2.0), jnp.full((2, 3), -3.0), "relu")
    >>> x.shape, as_array(x).max().item()
    ((2, 4, 4, 3), 0.0)
    """

    x: jax.Array
    multiplier: jax.Array
    offset: jax.Array
    activation: str | None = dataclasses.field(default=None, metadata={"static": True})
    sums: jax.Array | None = None

    shape = property(lambda self: self.x.shape)
    ndim = property(lambda self: self.x.ndim)
    dtype = property(lambda self: self.x.dtype)


def as_array(x: jax.Array | Normalized) -> jax.Array:
    """The map itself, [batch, *spatial, channels]; an array is one already."""
    if not isinstance(x, Normalized):
        return x
    multiplier, offset = (
        values.reshape(values.shape[0], *(1,) * (x.ndim - 2), values.shape[1]) for values in (x.multiplier, x.offset)
    )
    return READ_ACTIVATIONS[x.activation]((x.x.astype(jnp.float32) * multiplier + offset).astype(x.dtype))


def channel_sums(x: jax.Array) -> jax.Array:
    """Of x and of its squares, over all positions of each image: [2, batch, channels], float32.

    >>> channel_sums(jnp.full((1, 2, 2, 1), 3.0)).ravel().tolist()
    [12.0, 36.0]
    """
    values, axes = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    return jnp.stack([values.sum(axes), jnp.square(values).sum(axes)])


def known_mean(x: Normalized) -> jax.Array | None:
    """Over all positions, [batch, channels] in x's dtype, if it follows from the sums; None if not."""
    if x.activation is not None or x.sums is None:
        return None
    mean = x.sums[0] / math.prod(x.shape[1:-1])
    return (mean * x.multiplier + x.offset).astype(x.dtype)
