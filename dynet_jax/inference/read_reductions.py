"""Sums, means, maxima and minima over the positions or channels of a value of a traced network."""

import math
from collections.abc import Callable

import numpy as np

from dynet_jax.inference.program import MAP, VECTOR, Elementwise, Mean, Pool, Reduce
from dynet_jax.inference.traced import CHANNELS, GROUP, MEMBER, ONE, POSITIONS, Traced, channels

ROUNDING = 1e-6  # relative, of a constant in float32 such as 1 / 49


def _reduced(reader, equation, inputs, function) -> list[Traced] | None:
    """Over all positions, over all channels or those of each group, or over both, one after the other."""
    (value,), axes = inputs, equation.params["axes"]
    shape = equation.invars[0].aval.shape
    over = {value.axes[axis] for axis in axes}
    kind = reader.values[value.number].kind
    left = tuple(label for axis, label in enumerate(value.axes) if axis not in axes)
    over -= {ONE}
    positions, of_channels = over & set(POSITIONS), over - set(POSITIONS)
    if kind not in (MAP, VECTOR) or (positions and (len(positions) == 1 or kind == VECTOR)):
        return None
    if of_channels not in (set(), {CHANNELS}, {MEMBER}, {GROUP, MEMBER}):
        return None
    sizes = [shape[axis] for axis in axes if value.axes[axis] in POSITIONS]
    if positions:
        value = _over_positions(reader, value, function, left)
    if of_channels:
        groups = shape[inputs[0].axes.index(GROUP)] if of_channels == {MEMBER} else 1
        after = channels(left, equation.outvars[0].aval.shape)
        own = reader.values[value.number].kind
        value = reader.add(
            lambda xs, y: Reduce(f"{function}_of_channels", xs[0], y, function, groups), [value], own, left, after
        )
    if positions and function == "sum":
        return [_counted(reader, value, math.prod(sizes))]
    return [value._replace(axes=left)]


def _over_positions(reader, value: Traced, function: str, left) -> Traced:
    count = reader.values[value.number].channels
    if function == "sum":
        return reader.add(lambda xs, y: Mean("mean", xs[0], y, keep_positions=False), [value], VECTOR, left, count)
    return reader.add(
        lambda xs, y: Reduce(f"{function}_of_positions", xs[0], y, function), [value], VECTOR, left, count
    )


def _counted(reader, mean: Traced, count: int) -> Traced:
    """A mean times what it is the mean of: their sum. If that is divided by the count, the mean itself is used."""
    constants = (None, np.asarray(count, np.float32))
    kind, features = reader.values[mean.number]
    total = reader.add(
        lambda xs, y: Elementwise("sum", xs, y, "multiply", constants), [mean], kind, mean.axes, features
    )
    reader.sums[total.number] = mean.number, count
    return total


def divided_sum(reader, equation, inputs, divisor) -> list[Traced] | None:
    """Returns a sum over positions, or of a window, that is divided by their number: a mean. None for another division.

    divisor: an array, or a number.
    """
    value = next(value for value in inputs if isinstance(value, Traced))
    if value.number not in reader.sums:
        return None
    mean, count = reader.sums[value.number]
    divisor = np.asarray(divisor, np.float32)
    if isinstance(count, np.ndarray):
        return _windowed_mean(reader, value, mean, count, divisor)
    if divisor.size != 1:
        return None
    ratio = divisor.item() / count
    if abs(ratio - round(ratio)) > ROUNDING * ratio or round(ratio) < 1:
        return None
    if round(ratio) == 1:
        return [Traced(mean, value.axes)]
    kind, features = reader.values[mean]
    constants = (None, np.asarray(round(ratio), np.float32))
    of = Traced(mean, value.axes)
    return [reader.add(lambda xs, y: Elementwise("mean", xs, y, "divide", constants), [of], kind, value.axes, features)]


def _windowed_mean(reader, value, pool, counts, divisor) -> list[Traced] | None:
    """The mean of a window, if the divisor is the number of its elements, or of those that are no padding."""
    if divisor.ndim == 0 and divisor == math.prod(reader.pools[pool].kernel_size):
        return [Traced(pool, value.axes)]
    if divisor.ndim != 4 or divisor.shape[1:3] != counts.shape or (divisor != counts[None, :, :, None]).any():
        return None
    kind, features = reader.values[pool]
    own: Pool = reader.pools[pool]
    x = Traced(own.x, value.axes)
    return [reader.add(lambda xs, y: own._replace(x=xs[0], y=y, function="mean"), [x], kind, value.axes, features)]


REDUCTIONS: dict[str, Callable] = {
    f"reduce_{name}": lambda reader, equation, inputs, name=name: _reduced(reader, equation, inputs, name)
    for name in ("sum", "max", "min")
}
