"""From pixels to what a network takes."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float32, Shaped

from dynet_jax.ops.maps import Operand


def normalize(
    images: Shaped[Operand, "*batch height width channels"],
    mean: ArrayLike | Sequence[float],
    std: ArrayLike | Sequence[float],
) -> Float32[Array, "*batch height width channels"]:
    """Returns images of 0..255 with the given mean and standard deviation, both in units of 0..255."""
    return (jnp.asarray(images, jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
