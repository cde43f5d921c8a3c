"""What a convolution's window is: every argument a user may write, made explicit once."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

Padding = str | int | Sequence[int | tuple[int, int]]


class Window(NamedTuple):
    """A convolution's geometry with one entry per spatial dimension and padding in numbers."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def is_pointwise(self) -> bool:
        return math.prod(self.kernel_size) == 1

    def output_shape(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the result. Raises ValueError if the window does not fit the input."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.kernel_dilation, self.kernel_size)]
        sizes = [
            (size + sum(pad) - r) // stride + 1
            for size, pad, r, stride in zip(spatial_shape, self.padding, reach, self.strides)
        ]
        # In a program for any size (`jax.export`) a size is a symbol, and comparing it may not be possible.
        if any(isinstance(size, int) and size < 1 for size in sizes):
            raise ValueError(
                f"an input of spatial shape {tuple(spatial_shape)} is too small for a window of {tuple(reach)} "
                f"with padding {self.padding}: the output would have shape {tuple(sizes)}"
            )
        return tuple(sizes)

    def positions(self, spatial_shape: Sequence[int]) -> int | None:
        """How many the result has; None if they depend on a symbol of `jax.export`."""
        count = math.prod(self.output_shape(spatial_shape))
        return count if isinstance(count, int) else None


def per_dimension(value: int | Sequence[int] | None, rank: int, name: str) -> tuple[int, ...]:
    """`2` or `(2,)` or `(2, 2)` -> one positive int per spatial dimension; None is 1, as in `flax.linen.Conv`."""
    value = 1 if value is None else value
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) == 1:
        values *= rank
    if len(values) != rank or not all(isinstance(v, int) and v >= 1 for v in values):
        raise ValueError(f"{name} must be a positive int or {rank} of them, not {value!r}")
    return values


def make_window(
    x: jnp.ndarray,
    kernel_size: Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    kernel_dilation: int | Sequence[int],
) -> tuple[jnp.ndarray, Window]:
    """Make the geometry explicit, for `x` of shape [batch, *spatial, channels].

    Returns x too, because 'CIRCULAR', 'REFLECT' and 'CAUSAL' pad with something other than zeros
    or on one side only, and SAME of symbolic sizes by symbols: that is done here, and what follows sees a plain window.
    """
    kernel_size = tuple(kernel_size)
    rank = len(kernel_size)
    strides = per_dimension(strides, rank, "strides")
    dilation = per_dimension(kernel_dilation, rank, "kernel_dilation")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size)]
    if isinstance(padding, str):
        x, pads = _named_padding(x, padding, reach, strides)
    else:
        pads = _numeric_padding(padding, rank)
    if not all(isinstance(side, int) for pair in pads for side in pair):  # symbols of `jax.export`, for any size
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
        pads = [(0, 0)] * rank
    return x, Window(kernel_size, strides, dilation, tuple(pads))


def fixed_padding(padding: Padding, reach: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(before, after) of each dimension, for padding with zeros that is the same whatever the size of the input.

    reach: positions from the first to the last that a window sees, in each dimension.
    Raises ValueError for padding that depends on the size, or is not of zeros.

    >>> fixed_padding("TORCH", (4, 3))
    ((1, 1), (1, 1))
    >>> fixed_padding((2, (0, 1)), (3, 3))
    ((2, 2), (0, 1))
    """
    if padding == "VALID":
        return ((0, 0),) * len(reach)
    if padding == "TORCH":
        return tuple(((r - 1) // 2,) * 2 for r in reach)
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r} is not the same for every size of the input")
    return _numeric_padding(padding, len(reach))


def pool_padding(padding: Padding, size: int) -> Padding:
    """The padding of pooling as that of a convolution: 'TORCH' pads an even size by one more than a convolution would.

    >>> pool_padding("TORCH", 2)
    1
    """
    return size // 2 if padding == "TORCH" else padding


def _named_padding(x, padding, reach, strides):
    zero = [(0, 0)] * len(reach)
    if padding == "SAME" and not all(isinstance(size, int) for size in x.shape[1:-1]):
        return x, [_same_of_symbol(*dimension) for dimension in zip(x.shape[1:-1], reach, strides)]
    if padding in ("SAME", "SAME_LOWER", "VALID"):
        return x, lax.padtype_to_pads(x.shape[1:-1], reach, strides, padding)
    if padding in ("CIRCULAR", "REFLECT"):
        sides = [((r - 1) // 2, r // 2) for r in reach]
        mode = "wrap" if padding == "CIRCULAR" else "reflect"
        return jnp.pad(x, [(0, 0), *sides, (0, 0)], mode=mode), zero
    if padding == "TORCH":
        return x, fixed_padding(padding, reach)
    if padding == "CAUSAL" and len(reach) == 1:
        return x, [(reach[0] - 1, 0)]
    raise ValueError(
        f"padding {padding!r} is not one of 'SAME', 'SAME_LOWER', 'TORCH', 'VALID', 'CIRCULAR', 'REFLECT', 'CAUSAL' "
        "(1-D only), an int, or a sequence of ints or (low, high) pairs"
    )


def _same_of_symbol(size, reach, stride):
    """SAME for a size that is a symbol of `jax.export`: so that the output is ceil(size / stride), by the same formula
    whatever the reach. JAX cannot tell that two formulas are equal, and would not add their maps. The padding may be
    negative, where the last positions are not needed."""
    total = (-(-size // stride) - 1) * stride + reach - size
    low = total // 2 if reach >= stride else 0
    return low, total - low


def _numeric_padding(padding, rank):
    sides = (padding,) * rank if isinstance(padding, int) else tuple(padding)
    pairs = tuple((side, side) if isinstance(side, int) else tuple(side) for side in sides)
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"padding must have {rank} entries, each an int or a (low, high) pair, not {padding!r}")
    return pairs
