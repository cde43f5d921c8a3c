"""Small functions of networks that recorded programs contain as one operation each (see `dynet_jax.ops.whole`)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from dynet_jax.ops.maps import FeatureMap, Map, on_arrays
from dynet_jax.ops.whole import whole
from dynet_jax.ops.window import Padding, fixed_padding, pool_padding


@whole
def spatial_mean(
    x: Shaped[Map, "batch *spatial channels"], keepdims: bool = False
) -> Shaped[Array, "batch *ones channels"]:
    """Returns the mean over all positions, in x's dtype, computed at least in float32.

    With keepdims the spatial axes remain, with length 1.

    >>> import jax.numpy as jnp
    >>> spatial_mean(jnp.ones((2, 4, 4, 3))).shape
    (2, 3)
    """
    axes = tuple(range(1, x.ndim - 1))
    if isinstance(x, FeatureMap):
        mean = x.spatial_mean()
        return jnp.expand_dims(mean, axes) if keepdims else mean
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # a mean over a large map needs the precision
    return jnp.mean(wide, axis=axes, keepdims=keepdims).astype(x.dtype)


@whole
@on_arrays
def max_pool(
    x: Shaped[Array, "batch height width channels"], size: int, strides: int, padding: Padding
) -> Shaped[Array, "batch rows columns channels"]:
    """Returns the maximum of each window of size x size; the padding 'TORCH' is the same on both sides."""
    pads = pool_padding(padding, size)
    pads = pads if isinstance(pads, str) else fixed_padding(pads, (size, size))
    return nn.max_pool(x, (size, size), (strides, strides), pads)


@whole
@on_arrays
def channel_shuffle(x: Shaped[Array, "*shape"], groups: int = 2) -> Shaped[Array, "*shape"]:
    """Returns x with `groups` blocks of channels interleaved, so that the next split mixes them.

    The operation is ShuffleNet's (Zhang et al., 2018).

    Raises ValueError unless groups divides the channels.

    >>> import jax.numpy as jnp
    >>> channel_shuffle(jnp.arange(6)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels cannot be shuffled in {groups} groups; use a multiple of {groups}")
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)
