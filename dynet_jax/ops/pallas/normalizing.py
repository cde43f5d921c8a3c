"""What a kernel does besides its convolution: normalise what it reads, and sum what it writes.

`affine` is [2, *tile], multiplier and offset of every channel and image; `sums` and their gradient are [2, *tile], of a
result and of its squares. Both may be None.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dynet_jax.ops.normalized import LIMITS
from dynet_jax.ops.pallas.call import like


def read(x: jax.Array, affine, activation: str | None) -> jax.Array:
    """activation(x * multiplier + offset) in float32, [..., *tile]."""
    x = x.astype(jnp.float32)
    if affine is None:
        return x
    return _cut(x * affine[0] + affine[1], activation)


def _cut(z, activation):
    low, high = LIMITS[activation]
    z = jnp.maximum(z, low) if low > -jnp.inf else z
    return jnp.minimum(z, high) if high < jnp.inf else z


def unread(gradient: jax.Array, x: jax.Array, affine, activation: str | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The way of a gradient back through `read`: that of x, and at every place those of multiplier and offset."""
    x = x.astype(jnp.float32)
    z, (low, high) = x * affine[0] + affine[1], LIMITS[activation]
    if activation is not None:
        gradient = jnp.where((z > low) & (z < high), gradient, 0.0)
    return gradient * affine[0], gradient * x, gradient


def summed(gradient: jax.Array, y: jax.Array | None, sums) -> jax.Array:
    """The gradient of y in float32, where y was also summed; `sums`: their gradient, or None if it was not."""
    gradient = gradient.astype(jnp.float32)
    return gradient if sums is None else gradient + sums[0] + 2 * y.astype(jnp.float32) * sums[1]


def clear_with_first_rows(*results) -> None:
    """Sums over all blocks of rows begin at zero with the first."""

    @pl.when(pl.program_id(1) == 0)
    def _():
        for result in results:
            if result is not None:
                result[...] = jnp.zeros_like(result)


def gradient_like(x: jax.Array, affine: jax.Array | None) -> jax.ShapeDtypeStruct | None:
    """The result for the gradient of `affine`, which varies over devices as x does."""
    return None if affine is None else like(x, affine.shape, jnp.float32)
