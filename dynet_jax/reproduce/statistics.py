"""Statistics of a few paired numbers: mean, spread, an interval, and whether they support a claim."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Verdict = Literal["seen", "not seen", "not decided"]
CONFIDENCE = 0.95


class Sample(NamedTuple):
    """Numbers, one per seed. They cannot differ by less than `resolution`, for example as shares of few images.

    >>> sample = Sample((1.0, 2.0, 3.0))
    >>> sample.mean, sample.spread
    (2.0, 1.0)
    """

    values: tuple[float, ...]
    resolution: float = 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Returns the standard deviation; None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float:
        """Returns the half width of the 95 % interval of the mean (Student's t); infinite for one value.

        Three equal numbers prove nothing, so the spread is taken as at least one step of the resolution.

        >>> round(Sample((-0.28, -0.28, -0.28), resolution=0.28).half_width, 2)
        0.7
        """
        if (spread := self.spread) is None:
            return math.inf
        return decidable(len(self.values), max(spread, self.resolution))

    @property
    def interval(self) -> str:
        """Returns the signed mean with the half width of its interval.

        >>> Sample((1.0, 2.0, 3.0)).interval, Sample((1.0,)).interval
        ('+2.00 ± 2.48', '+1.00, one seed')
        """
        one = not math.isfinite(self.half_width)
        return f"{self.mean:+.2f}, one seed" if one else f"{self.mean:+.2f} ± {self.half_width:.2f}"

    @property
    def negative(self) -> "Sample":
        return self._replace(values=tuple(-value for value in self.values))

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """Returns the mean and the spread.

        >>> Sample((1.0, 2.0)).text(), Sample((1.0,)).text(signed=True)
        ('1.50 ± 0.71', '+1.00')
        """
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return mean if self.spread is None else f"{mean} ± {self.spread:.{digits}f}"


def verdict(differences: Sample, *, below: float = 0.0) -> Verdict:
    """Returns 'seen' if the whole interval of the mean is below `below`, 'not seen' if all of it is above.

    >>> verdict(Sample((-1.0, -1.1, -0.9))), verdict(Sample((1.0, 1.1, 0.9))), verdict(Sample((-1.0, 1.0, 0.5)))
    ('seen', 'not seen', 'not decided')
    """
    if differences.mean + differences.half_width < below:
        return "seen"
    return "not seen" if differences.mean - differences.half_width > below else "not decided"


def decidable(seeds: int, spread: float) -> float:
    """Returns the smallest mean difference that is decided if paired differences have this standard deviation.

    >>> round(decidable(3, 0.6), 2), round(decidable(5, 0.6), 2), decidable(1, 0.6)
    (1.49, 0.74, inf)
    """
    return math.inf if seeds < 2 else _quantile(seeds) * spread / math.sqrt(seeds)


def _quantile(number: int) -> float:
    """Returns Student's t of the interval of the mean of so many values."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, number - 1))


def conjunction(first: Verdict, second: Verdict) -> Verdict:
    """Returns the verdict on a claim with two parts.

    >>> conjunction("seen", "seen"), conjunction("not decided", "not seen"), conjunction("seen", "not decided")
    ('seen', 'not seen', 'not decided')
    """
    if "not seen" in (first, second):
        return "not seen"
    return "seen" if first == second == "seen" else "not decided"


def paired(first: Sample, second: Sample) -> Sample:
    """Returns first - second, seed by seed."""
    differences = tuple(a - b for a, b in zip(first.values, second.values, strict=True))
    return Sample(differences, max(first.resolution, second.resolution))


def slopes(x: Sequence[float], samples: Sequence[Sample]) -> Sample:
    """Returns, for every seed, the slope of the least-squares line through (x[i], samples[i].values[seed]).

    The resolution is the change of the slope for one step of a sample's resolution where that has the most effect.

    >>> slopes([0.0, 1.0, 2.0], [Sample((5.0, 1.0)), Sample((4.0, 1.0)), Sample((3.0, 1.0))]).values
    (-1.0, 0.0)
    """
    centred = np.asarray(x, float) - np.mean(x)
    values = np.array([sample.values for sample in samples])
    weights = centred / np.sum(centred**2)
    resolution = max(abs(weight) * sample.resolution for weight, sample in zip(weights, samples))
    return Sample(tuple(round(float(value), 12) + 0.0 for value in weights @ values), float(resolution))
