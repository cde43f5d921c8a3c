"""Mixup and CutMix of neighbouring images in a batch: pairs, so that no device needs another one's images."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Shaped

from dynet_jax.ops.maps import Operand


def mix_pairs(
    images: Float[Operand, "batch height width channels"], keys: Shaped[Array, " pairs"], mixup: float, cutmix: float
) -> tuple[Float[Array, "batch height width channels"], Float32[Array, " batch"]]:
    """Returns images of which each is mixed with its neighbour (0 and 1, 2 and 3, ...), and its share in the result.

    With mixup (Zhang et al., 2018) an image becomes share * image + (1 - share) * neighbour, share from Beta(mixup,
    mixup). With CutMix (Yun et al., 2019) a rectangle, whose relative area is 1 - Beta(cutmix, cutmix) before it is
    clipped to the image, shows the neighbour; the share is the rest of the area. With both, a pair gets either of them
    with equal probability.

    keys: one random key per pair.
    mixup, cutmix: parameters of the distributions; 0 for none, but not both.
    Raises ValueError for an odd number of images.

    >>> images, shares = mix_pairs(jnp.ones((4, 8, 8, 3)), jax.random.split(jax.random.key(0), 2), 0.2, 0.0)
    >>> images.shape, shares.shape
    ((4, 8, 8, 3), (4,))
    """
    if len(images) % 2:
        raise ValueError(f"pairs of images are mixed, and {len(images)} are an odd number")
    height, width = images.shape[1:3]
    weights = jax.vmap(lambda key: _weights(key, (height, width), mixup, cutmix))(keys)[:, None, :, :, None]
    pairs = jnp.reshape(images, (-1, 2, *images.shape[1:]))
    mixed = weights * pairs + (1 - weights) * pairs[:, ::-1]
    shares = jnp.broadcast_to(weights.mean((2, 3, 4)), pairs.shape[:2])
    return mixed.astype(images.dtype).reshape(images.shape), shares.reshape(-1)


def neighbours(values: Shaped[Array, " batch *rest"]) -> Shaped[Array, " batch *rest"]:
    """Returns what belongs to the neighbours of `mix_pairs`: values 1, 0, 3, 2, ..."""
    return values.reshape(-1, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)


def _weights(key: Array, size: tuple[int, int], mixup: float, cutmix: float) -> Array:
    """Returns the share of an image at every pixel, [height, width]."""
    choice, strength, position = jax.random.split(key, 3)
    uniform, outside = jnp.zeros(size), jnp.zeros(size)
    if mixup:
        uniform = jnp.full(size, jax.random.beta(strength, mixup, mixup))
    if cutmix:
        outside = _outside(position, size, jax.random.beta(strength, cutmix, cutmix))
    if mixup and cutmix:
        return jnp.where(jax.random.bernoulli(choice), uniform, outside)
    return uniform if mixup else outside


def _outside(key: Array, size: tuple[int, int], share: Array) -> Array:
    """Returns 0 in a rectangle around a random pixel and 1 outside of it."""
    insides = []
    for length, key_of_axis in zip(size, jax.random.split(key)):
        cut = jnp.floor(length * jnp.sqrt(1 - share))
        first = jax.random.randint(key_of_axis, (), 0, length) - jnp.floor(cut / 2)
        at = jnp.arange(length)
        insides.append((at >= first) & (at < first + cut))
    return 1.0 - insides[0][:, None] * insides[1]
