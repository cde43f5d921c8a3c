"""What a kernel does besides its convolution: it normalises what it reads, and sums what it writes.

`affine` is [2, *tile], the multiplier and offset of every channel and image; `sums` and their gradient are [2, *tile],
of a result and of its squares. Both may be None.
"""

import math

import jax
import jax.numpy as jnp

from dynet_jax.ops.pallas import like

LIMITS = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}  # of each activation


def normalize_block(x: jax.Array, affine, activation: str | None) -> jax.Array:
    """Returns activation(x * multiplier + offset) in float32, [..., *tile]."""
    x = x.astype(jnp.float32)
    if affine is None:
        return x
    z, (low, high) = x * affine[0] + affine[1], LIMITS[activation]
    z = jnp.maximum(z, low) if low > -jnp.inf else z
    return jnp.minimum(z, high) if high < jnp.inf else z


def normalize_block_gradients(
    gradient: jax.Array, x: jax.Array, affine, activation: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradient of `normalize_block` for x, and at every position those for multiplier and offset."""
    x = x.astype(jnp.float32)
    z, (low, high) = x * affine[0] + affine[1], LIMITS[activation]
    if activation is not None:
        gradient = jnp.where((z > low) & (z < high), gradient, 0.0)
    return gradient * affine[0], gradient * x, gradient


def add_gradient_of_sums(dy: jax.Array, y: jax.Array | None, dsums) -> jax.Array:
    """Returns the gradient of y in float32, with the part that comes through its sums if they have been used."""
    dy = dy.astype(jnp.float32)
    return dy if dsums is None or y is None else dy + dsums[0] + 2 * y.astype(jnp.float32) * dsums[1]


def gradient_like(x: jax.Array, affine: jax.Array | None) -> jax.ShapeDtypeStruct | None:
    """Returns the output for the gradient of `affine`, which varies over devices as x does."""
    return None if affine is None else like(x, affine.shape, jnp.float32)
