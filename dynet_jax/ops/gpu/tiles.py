"""The part of a map that a block of threads reads or writes, and what it does on the way.

Maps are [batch, positions, channels] here, and a tile is [positions, channels] of an image. `affine` is [2, batch,
channels], the multiplier and offset of every channel and image, and so is the gradient of sums; what blocks sum is
[batch, blocks, 2, channels]. Everything but maps may be None.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynet_jax.ops.gpu.call import load, store
from dynet_jax.ops.normalizing import add_gradient_of_sums, normalize_block, normalize_block_gradients


class Channels(NamedTuple):
    """Channels of an image, and which of them it has."""

    image: jax.Array
    numbers: jax.Array
    inside: jax.Array

    def rows(self, ref) -> tuple[jax.Array, jax.Array] | None:
        """Returns both rows of an array [2, batch, channels], [1, channels] each."""
        if ref is None:
            return None
        first, second = (load(ref, row, self.image, self.numbers, mask=self.inside)[None, :] for row in (0, 1))
        return first, second


class Tile(NamedTuple):
    """Positions of an image and channels; `inside` are the positions that the image has."""

    channels: Channels
    positions: jax.Array
    inside: jax.Array

    @property
    def at(self) -> tuple:
        """Returns its place in a map."""
        return self.channels.image, self.positions[:, None], self.channels.numbers[None, :]

    @property
    def mask(self) -> jax.Array:
        return self.inside[:, None] & self.channels.inside[None, :]

    def read(self, x, affine, activation) -> jax.Array:
        """Returns activation(x * multiplier + offset) in x's type, 0 outside: a map is padded when it is normalised.

        affine: what `Channels.rows` gives.
        """
        values = load(x, *self.at, mask=self.mask)
        if affine is None:
            return values
        return jnp.where(self.mask, normalize_block(values, affine, activation), 0.0).astype(x.dtype)

    def read_gradient(self, dy, y, dsums) -> jax.Array:
        """Returns the gradient of y in its type, with the part that comes through the sums of y (`Channels.rows`)."""
        gradient = load(dy, *self.at, mask=self.mask)
        if dsums is None:
            return gradient
        gradient = add_gradient_of_sums(gradient, load(y, *self.at, mask=self.mask), dsums)
        return jnp.where(self.mask, gradient, 0.0).astype(dy.dtype)

    def write(self, y, sums, block, values) -> None:
        """Writes y, and the block's sums of y and of its squares, of what will be read of it."""
        values = values.astype(y.dtype)
        store(y, *self.at, value=values, mask=self.mask)
        if sums is not None:
            values = jnp.where(self.mask, values.astype(jnp.float32), 0.0)
            self._write_sums(sums, block, values, values * values)

    def write_gradient(self, dx, daffine, block, gradient, x, affine, activation) -> None:
        """Writes the gradient of x, by that of what has been read of it, and sums those of multiplier and offset."""
        if affine is not None:
            values = load(x, *self.at, mask=self.mask)
            gradient, multiplier, offset = normalize_block_gradients(gradient, values, affine, activation)
            self._write_sums(daffine, block, jnp.where(self.mask, multiplier, 0.0), jnp.where(self.mask, offset, 0.0))
        store(dx, *self.at, value=gradient, mask=self.mask)

    def _write_sums(self, sums, block, *values) -> None:
        channels = self.channels
        inside = channels.inside & (block < sums.shape[1])  # the last round of blocks need not be full
        for row, value in enumerate(values):
            store(sums, channels.image, block, row, channels.numbers, value=jnp.sum(value, axis=0), mask=inside)
