"""Statistics against SciPy and NumPy, which the tests use in another way."""

import numpy as np
import pytest
from scipy import stats

from dynet_jax.reproduce.statistics import Sample, paired, slopes, verdict


def random_samples(seed, count, size=5):
    return [Sample(tuple(row)) for row in np.random.default_rng(seed).normal(size=(count, size)).tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_students_t_test(seed):
    first, second = random_samples(seed, 2)
    expected = stats.ttest_rel(first.values, second.values).confidence_interval(0.95)
    found = paired(first, second)
    np.testing.assert_allclose(
        (found.mean - found.half_width, found.mean + found.half_width), (expected.low, expected.high), rtol=1e-9
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_claim_is_seen_exactly_where_the_t_test_rejects_the_opposite(seed):
    sample = Sample(tuple(np.random.default_rng(seed).normal(-1, 1, size=4).tolist()))
    p, below = stats.ttest_1samp(sample.values, 0.0).pvalue, sample.mean < 0
    assert verdict(sample) == ("not decided" if p > 0.05 else "seen" if below else "not seen")


def test_one_seed_decides_nothing():
    assert verdict(Sample((-100.0,))) == "not decided"


def test_a_margin_moves_what_counts_as_seen():
    sample = Sample((0.4, 0.5, 0.6))
    assert verdict(sample) == "not seen"
    assert verdict(sample, below=1.0) == "seen"


def test_slopes_are_those_of_a_line_of_least_squares():
    x, samples = [0.0, 1.0, 2.0, 2.585], random_samples(0, 4, size=3)
    expected = [np.polyfit(x, [sample.values[seed] for sample in samples], 1)[0] for seed in range(3)]
    np.testing.assert_allclose(slopes(x, samples).values, expected, atol=1e-9)


def test_slopes_that_differ_by_less_than_one_image_are_not_exact():
    x, step = [0.0, 1.0, 2.0], 0.28
    steps_of_one_image = slopes(x, [Sample((error,) * 3, step) for error in (10.0 + step, 10.0 + step, 10.0)])
    assert steps_of_one_image.resolution == pytest.approx(step / 2)  # one image less in the last moves it so far
    assert verdict(steps_of_one_image) == "not decided"


def test_samples_of_different_seeds_are_not_paired():
    with pytest.raises(ValueError, match="shorter"):
        paired(Sample((1.0, 2.0)), Sample((1.0,)))
