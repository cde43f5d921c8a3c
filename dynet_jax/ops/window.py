"""The geometry of a convolution: every argument a user may write, made explicit once."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Shaped

from dynet_jax.ops.maps import Operand

Padding = str | int | Sequence[int | tuple[int, int]]
_PADDING_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}  # of `jax.numpy.pad`


class Window(NamedTuple):
    """A convolution's geometry with one entry per spatial dimension and padding in numbers."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str = "constant"  # zeros; or 'wrap' or 'reflect', as in `jax.numpy.pad`

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
        """Returns how many positions the result has; None if they depend on a symbol of `jax.export`."""
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
    x_shape: Sequence[int],
    kernel_size: Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    kernel_dilation: int | Sequence[int],
) -> Window:
    """Returns the geometry of a convolution of an array of shape [batch, *spatial, channels].

    >>> make_window((1, 8, 3), (3,), 2, "SAME", 1)
    Window(kernel_size=(3,), strides=(2,), kernel_dilation=(1,), padding=((0, 1),), padding_mode='constant')
    """
    kernel_size = tuple(kernel_size)
    rank = len(kernel_size)
    strides = per_dimension(strides, rank, "strides")
    dilation = per_dimension(kernel_dilation, rank, "kernel_dilation")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size)]
    if not isinstance(padding, str):
        return Window(kernel_size, strides, dilation, _numeric_padding(padding, rank))
    pads = tuple(_named_padding(x_shape[1:-1], padding, reach, strides))
    return Window(kernel_size, strides, dilation, pads, _PADDING_MODES.get(padding, "constant"))


def pad_explicitly(
    x: Shaped[Operand, "batch *spatial channels"], window: Window
) -> tuple[Shaped[Operand, "batch *padded channels"], Window]:
    """Returns x padded by what XLA's convolutions do not take, and the window that is left for them.

    They pad with zeros, by numbers that are known: 'CIRCULAR' and 'REFLECT' pad with other positions of x, and SAME of
    a symbolic size of `jax.export` pads by a symbol.

    >>> x = jnp.arange(4).reshape(1, 4, 1)
    >>> x, window = pad_explicitly(x, make_window(x.shape, (3,), 1, "CIRCULAR", 1))
    >>> x.ravel().tolist(), window.padding
    ([3, 0, 1, 2, 3, 0], ((0, 0),))
    """
    if window.padding_mode != "constant":
        x = jnp.pad(x, [(0, 0), *window.padding, (0, 0)], mode=window.padding_mode)
    elif not all(isinstance(side, int) for pair in window.padding for side in pair):
        pads = [(low, high, 0) for low, high in window.padding]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    else:
        return x, window
    return x, window._replace(padding=((0, 0),) * len(window.padding), padding_mode="constant")


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


def _named_padding(spatial_shape, padding, reach, strides):
    if padding == "SAME" and not all(isinstance(size, int) for size in spatial_shape):
        return [_same_of_symbol(*dimension) for dimension in zip(spatial_shape, reach, strides)]
    if padding in ("SAME", "SAME_LOWER", "VALID"):
        return lax.padtype_to_pads(spatial_shape, reach, strides, padding)
    if padding in _PADDING_MODES:
        return [((r - 1) // 2, r // 2) for r in reach]
    if padding == "TORCH":
        return fixed_padding(padding, reach)
    if padding == "CAUSAL" and len(reach) == 1:
        return [(reach[0] - 1, 0)]
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
