"""From pixels to what a network takes."""

import jax
import jax.numpy as jnp


def normalize(images: jax.Array, mean, std) -> jax.Array:
    """uint8 images -> float32 with the given mean and standard deviation, both in units of 0..255."""
    return (images.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
