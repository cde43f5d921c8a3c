"""Which positions of x a position of y sees at each tap of the window, and which of y see one of x."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dynet_jax.ops.gpu.call import lanes
from dynet_jax.ops.window import Window

POSITIONS = 64  # of a tile


class Places(NamedTuple):
    """Positions of a map by row and column, and which of them it has."""

    row: jax.Array
    column: jax.Array
    inside: jax.Array

    def of(self, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Returns the numbers of the positions in a map of this height and width, and which of them it has."""
        return self.row * size[1] + self.column, self.inside


class Geometry(NamedTuple):
    """A window, and the map that it slides over."""

    window: Window
    size: tuple[int, int]  # height and width of x

    @property
    def output_size(self) -> tuple[int, int]:
        rows, columns = self.window.output_shape(self.size)
        return rows, columns

    @property
    def taps(self) -> int:
        """Returns how many positions the window has."""
        return math.prod(self.window.kernel_size)

    def places(self, tile) -> Places:
        """Returns the positions of a tile of x."""
        return _places(tile, self.size)

    def output_places(self, tile) -> Places:
        """Returns the positions of a tile of y."""
        return _places(tile, self.output_size)

    def seen(self, places: Places, tap) -> tuple[jax.Array, jax.Array]:
        """Returns what positions of y see of x at a tap: numbers, and which are in x. Outside is the padding."""
        parts, inside = [], places.inside
        for place, offset, stride, size in zip(places[:2], self._offsets(tap), self.window.strides, self.size):
            place = place * stride + offset
            inside = inside & (place >= 0) & (place < size)
            parts.append(place)
        return Places(parts[0], parts[1], inside).of(self.size)

    def seers(self, places: Places, tap) -> tuple[jax.Array, jax.Array]:
        """Returns which positions of y see those of x at a tap; where there is none, it is outside."""
        parts, inside, sizes = [], places.inside, self.output_size
        for place, offset, stride, size in zip(places[:2], self._offsets(tap), self.window.strides, sizes):
            place = place - offset
            inside = inside & (place >= 0) & (lax.rem(place, jnp.int32(stride)) == 0) & (place < stride * size)
            parts.append(lax.div(place, jnp.int32(stride)))
        return Places(parts[0], parts[1], inside).of(sizes)

    def _offsets(self, tap) -> tuple[jax.Array, jax.Array]:
        """Returns the row and the column of x that the first position of y sees at a tap."""
        (_, columns), (down, right) = self.window.kernel_size, self.window.kernel_dilation
        (top, _), (left, _) = self.window.padding
        tap, columns = jnp.int32(tap), jnp.int32(columns)
        return lax.div(tap, columns) * down - top, lax.rem(tap, columns) * right - left


def _places(tile, size: tuple[int, int]) -> Places:
    numbers, inside = lanes(tile * POSITIONS, POSITIONS, math.prod(size))
    columns = jnp.int32(size[1])
    return Places(lax.div(numbers, columns), lax.rem(numbers, columns), inside)
