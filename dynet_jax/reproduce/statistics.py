"""What a few paired numbers say: mean, spread, an interval, and whether a claim is seen in them."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Verdict = Literal["seen", "not seen", "not decided"]
CONFIDENCE = 0.95


class Sample(NamedTuple):
    """Numbers, one for each seed. They cannot differ by less than `resolution`, as shares of few images cannot.

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
        """The standard deviation; None of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float:
        """Of the interval that holds the mean in 95 % of such samples (Student's t); infinite for one value.

        Three equal numbers are no proof: the spread is taken as one step of the resolution at least.

        >>> round(Sample((-0.28, -0.28, -0.28), resolution=0.28).half_width, 2)
        0.7
        """
        if (spread := self.spread) is None:
            return math.inf
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(self.values) - 1)
        return float(quantile * max(spread, self.resolution) / math.sqrt(len(self.values)))

    @property
    def interval(self) -> str:
        """The mean, signed, with the half width of its interval.

        >>> Sample((1.0, 2.0, 3.0)).interval, Sample((1.0,)).interval
        ('+2.00 ± 2.48', '+1.00, one seed')
        """
        one = not math.isfinite(self.half_width)
        return f"{self.mean:+.2f}, one seed" if one else f"{self.mean:+.2f} ± {self.half_width:.2f}"

    @property
    def negative(self) -> "Sample":
        return self._replace(values=tuple(-value for value in self.values))

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """
        >>> Sample((1.0, 2.0)).text(), Sample((1.0,)).text(signed=True)
        ('1.50 ± 0.71', '+1.00')
        """
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return mean if self.spread is None else f"{mean} ± {self.spread:.{digits}f}"


def verdict(differences: Sample, *, below: float = 0.0) -> Verdict:
    """Whether the mean of the differences is less than `below`: 'seen' if the whole interval is, 'not seen' if none is.

    >>> verdict(Sample((-1.0, -1.1, -0.9))), verdict(Sample((1.0, 1.1, 0.9))), verdict(Sample((-1.0, 1.0, 0.5)))
    ('seen', 'not seen', 'not decided')
    """
    if differences.mean + differences.half_width < below:
        return "seen"
    return "not seen" if differences.mean - differences.half_width > below else "not decided"


def conjunction(first: Verdict, second: Verdict) -> Verdict:
    """Of a claim that says two things.

    >>> conjunction("seen", "seen"), conjunction("not decided", "not seen"), conjunction("seen", "not decided")
    ('seen', 'not seen', 'not decided')
    """
    if "not seen" in (first, second):
        return "not seen"
    return "seen" if first == second == "seen" else "not decided"


def paired(first: Sample, second: Sample) -> Sample:
    """first - second, seed by seed."""
    differences = tuple(a - b for a, b in zip(first.values, second.values, strict=True))
    return Sample(differences, max(first.resolution, second.resolution))


def slopes(x: Sequence[float], samples: Sequence[Sample]) -> Sample:
    """For every seed the slope of its line of least squares through (x[i], samples[i].values[seed]).

    One step of a sample's resolution, where it moves the slope most, is one of the slope's.

    >>> slopes([0.0, 1.0, 2.0], [Sample((5.0, 1.0)), Sample((4.0, 1.0)), Sample((3.0, 1.0))]).values
    (-1.0, 0.0)
    """
    centred = np.asarray(x, float) - np.mean(x)
    values = np.array([sample.values for sample in samples])
    weights = centred / np.sum(centred**2)
    resolution = max(abs(weight) * sample.resolution for weight, sample in zip(weights, samples))
    return Sample(tuple(round(float(value), 12) + 0.0 for value in weights @ values), float(resolution))
