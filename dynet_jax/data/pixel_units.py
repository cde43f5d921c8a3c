"""The unit of a mean and a standard deviation of pixels. Pixels here are from 0 to 255; PyTorch's are from 0 to 1."""

import math
from collections.abc import Sequence

from dynet_jax.errors import UserError

LARGEST = 255.0
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Numbers = Sequence[float]


def of_pixels(mean: Numbers, std: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of pixels from 0 to 255, converted if they are of pixels from 0 to 1 as in PyTorch.

    >>> of_pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    """
    factor = LARGEST if max(*map(abs, mean), *std) <= 1 else 1.0
    return tuple(_scaled(mean, factor)), tuple(_scaled(std, factor))


def check_units(mean: Numbers, std: Numbers, option: str = "--config.data.") -> str | None:
    """Returns a warning about values that only some networks need. `option` is the prefix of options in messages.

    Raises UserError, with the right values, for numbers that cannot be a mean and a std of pixels from 0 to 255.
    """
    given = _options(option, mean, std)
    if min(mean) < 0 or max(mean) > LARGEST or max(std) > LARGEST + 1:
        raise UserError(
            f"{given} are not of pixels from 0 to 255; ImageNet's are {_options(option, IMAGENET_MEAN, IMAGENET_STD)}"
        )
    reasons, right = [], {"mean": mean, "std": std}
    undivided = max(std) == min(std) == 1 and (max(mean) > 1 or not any(mean))
    small = [] if undivided else _small(mean, std)
    if small:
        right |= {name: _scaled(right[name], LARGEST) for name in small}
        reasons.append(f"{' and '.join(small)} of pixels from 0 to 1, where pixels are from 0 to 255")
    if _exchanged(**right):
        right = {"mean": right["std"], "std": right["mean"]}
        reasons.append("mean and std exchanged, as no pixels have such values")
    if all(abs(a - b) < 1 for a, b in zip(right["mean"], reversed(IMAGENET_MEAN))):
        right = {name: values[::-1] for name, values in right.items()}
        reasons.append("in the order blue, green, red, where red is first")
    if reasons:
        raise UserError(f"{given} are {', and '.join(reasons)}; use {_options(option, **right)}")
    if undivided:
        usual = f"{option}std={_shown(IMAGENET_STD)}"
        return f"{option}std={_shown(std)} leaves pixels of up to 255 undivided; most networks need {usual}"
    measured = min(std) < max(std)  # otherwise they are a divisor that someone chose
    return f"{given}: no pixels deviate as much from such a mean" if measured and _impossible(mean, std) else None


def _small(mean: Numbers, std: Numbers) -> list[str]:
    """Returns which of the two are of pixels from 0 to 1. A mean below 1 may also be that of dark images."""
    small_std = max(std) <= 1
    small_mean = any(mean) and max(mean) <= 1 and (small_std or _impossible(mean, std))
    return ["mean"] * small_mean + ["std"] * small_std


def _exchanged(mean: Numbers, std: Numbers) -> bool:
    """Returns whether mean and std are exchanged.

    The mean of natural images is about twice the std; far smaller means are intended, as in (x - 3) / 128.
    """
    twice = all(m < s < 3 * m for m, s in zip(mean, std))
    return twice and _impossible(mean, std) and not _impossible(std, mean)


def _impossible(mean: Numbers, std: Numbers) -> bool:
    """Returns whether no numbers from 0 to 255 have these values: only 0 and 255 have the largest deviation.

    Round numbers such as those of (x - 127.5) / 128 are not measured, and may be a little larger; a mean of 0 is not
    checked.
    """
    return any(s > 1.05 * math.sqrt(m * max(0.0, LARGEST - m)) + 1 for m, s in zip(mean, std) if m)


def _scaled(values: Numbers, factor: float) -> list[float]:
    return [round(value * factor, 6) for value in values]


def _options(option: str, mean: Numbers, std: Numbers) -> str:
    return f"{option}mean={_shown(mean)} {option}std={_shown(std)}"


def _shown(values: Numbers) -> str:
    """Returns the numbers as a shell accepts them, without spaces."""
    return f"[{','.join(f'{value:.7g}' for value in values)}]"
