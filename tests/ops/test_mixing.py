"""Mixup and CutMix, against loops in NumPy and the distributions of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynet_jax.ops.mixing import mix_pairs, neighbours

PAIRS, SIZE = 500, 12
# Each pixel of an image is the image's number, so that a mixed one tells what came from where.
NUMBERED = np.broadcast_to(np.arange(2.0 * PAIRS, dtype=np.float32)[:, None, None, None], (2 * PAIRS, SIZE, SIZE, 1))


def keys(pairs, seed=0):
    return jax.random.split(jax.random.key(seed), pairs)


def mixed(mixup, cutmix, images=NUMBERED):
    return map(np.asarray, mix_pairs(images, keys(len(images) // 2), mixup, cutmix))


def test_mixup_is_the_weighted_sum_of_a_pair():
    images = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(np.float32)
    got, shares = mixed(0.4, 0.0, images)
    for index, share in enumerate(shares):
        expected = share * images[index] + (1 - share) * images[index ^ 1]
        np.testing.assert_allclose(got[index], expected, atol=1e-6)
    np.testing.assert_array_equal(shares[::2], shares[1::2])
    assert len(set(shares[::2].tolist())) == 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_of_mixup_have_its_distribution(alpha):
    _, shares = mixed(alpha, 0.0)
    assert stats.kstest(shares[::2], stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_shows_the_neighbour_in_one_rectangle():
    got, shares = mixed(0.0, 1.0)
    for index, (image, share) in enumerate(zip(got, shares)):
        inside = image[..., 0] != index
        np.testing.assert_array_equal(image[..., 0][inside], index ^ 1)
        assert share == pytest.approx(1 - inside.mean(), abs=1e-6)
        rows, columns = inside.any(1), inside.any(0)
        np.testing.assert_array_equal(inside, rows[:, None] & columns)
        for line in (rows, columns):  # contiguous
            assert np.count_nonzero(np.diff(np.pad(line.astype(int), 1))) in (0, 2)


def test_areas_of_cutmix_have_their_distribution():
    """A loop draws the paper's rectangles."""
    rng, expected = np.random.default_rng(0), []
    for _ in range(4000):
        side = np.floor(SIZE * np.sqrt(1 - rng.beta(1.0, 1.0)))
        area = 1
        for _ in range(2):
            first = rng.integers(SIZE) - side // 2
            area *= max(0, min(SIZE, first + side) - max(0, first))
        expected.append(1 - area / SIZE**2)
    _, shares = mixed(0.0, 1.0)
    assert np.mean(shares) == pytest.approx(np.mean(expected), abs=0.04)
    assert np.std(shares) == pytest.approx(np.std(expected), abs=0.04)


def test_with_both_a_pair_gets_either_of_them():
    got, _ = mixed(1.0, 1.0)
    whole = sum(np.ptp(image) == 0 and image.flat[0] not in (n, n ^ 1) for n, image in enumerate(got)) / len(got)
    assert 0.42 < whole < 0.58


def test_neighbours():
    np.testing.assert_array_equal(neighbours(jnp.arange(6)), [1, 0, 3, 2, 5, 4])


def test_an_odd_number_is_refused():
    with pytest.raises(ValueError, match="3 are an odd number"):
        mix_pairs(NUMBERED[:3], keys(1), 1.0, 0.0)
