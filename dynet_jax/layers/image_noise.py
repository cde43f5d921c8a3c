"""Dropout and stochastic depth, from one random key per image: independent of devices, hosts and micro-batches."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax import Array
from jaxtyping import Shaped

from dynet_jax.errors import UserError
from dynet_jax.ops.maps import Map, scale

_keys: contextvars.ContextVar[Array | None] = contextvars.ContextVar("image_keys", default=None)


@contextlib.contextmanager
def image_keys(keys: Shaped[Array, " batch"]) -> Iterator[None]:
    """A context in which a network in training draws random numbers: one key for each image of the batch."""
    token = _keys.set(keys)
    try:
        yield
    finally:
        _keys.reset(token)


def dropout(
    x: Shaped[Map, " batch *rest"], rate: float, site: int, *, whole_images: bool = False
) -> Shaped[Map, " batch *rest"]:
    """Returns x with some values set to 0, each with a probability of `rate`, and the others divided by 1 - rate.

    site: a number that is different at each place of a network.
    whole_images: whether all values of an image are set to 0 together: stochastic depth (Huang et al., 2016).
    Raises UserError outside of `image_keys`.

    >>> import jax.numpy as jnp
    >>> with image_keys(jax.random.split(jax.random.key(0), 2)):
    ...     sorted(set(dropout(jnp.ones((2, 100)), 0.5, site=0).ravel().tolist()))
    [0.0, 2.0]
    """
    keys = _keys.get()
    if keys is None:
        raise UserError(
            "a network with dropout or stochastic_depth draws random numbers in training: apply it in a context of "
            "dynet_jax.layers.image_noise.image_keys"
        )
    shape = (1,) * (x.ndim - 1) if whole_images else x.shape[1:]
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, shape))(keys)
    return scale(x, kept.astype(x.dtype) / (1 - rate))
