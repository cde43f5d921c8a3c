"""Loss and counts against numpy, where numbers are awkward too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.tasks.losses import count_correct, cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(scale=4, size=(9, 7)).astype(np.float32), rng.integers(0, 7, 9)
    expected = []
    for row, label in zip(logits.astype(float), labels):
        log_p = row - np.log(np.sum(np.exp(row)))
        target = [smoothing / 7 + (1 - smoothing if k == label else 0) for k in range(7)]
        expected.append(-np.dot(target, log_p))
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), expected, rtol=1e-5)


def test_cross_entropy_of_a_constant_is_the_logarithm_of_the_classes():
    loss = cross_entropy(jnp.full((3, 1000), 5.0), jnp.array([0, 500, 999]), 0.1)
    np.testing.assert_allclose(loss, np.log(1000), rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, 0.0, -1e4]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0])), [0.0], atol=1e-6)
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([2])), [2e4], rtol=1e-6)


def test_cross_entropy_of_bfloat16_is_computed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (4, 10), jnp.bfloat16)
    loss = cross_entropy(logits, jnp.arange(4), 0.1)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, cross_entropy(logits.astype(jnp.float32), jnp.arange(4), 0.1))


def sorted_ranks(logits, labels):
    """The label's place after a stable sort: of equal logits the lower class comes first."""
    order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")
    return np.array([list(row).index(label) for row, label in zip(order, labels)])


@pytest.mark.parametrize("levels", [1000, 4], ids=["distinct", "many ties"])
def test_count_correct(levels):
    rng = np.random.default_rng(0)
    logits = rng.integers(0, levels, (300, 12)).astype(np.float32)
    labels = rng.integers(0, 12, 300)
    ranks = sorted_ranks(logits, labels)
    counts = count_correct(logits, labels)
    np.testing.assert_array_equal(counts["top1"], ranks < 1)
    np.testing.assert_array_equal(counts["top5"], ranks < 5)
    np.testing.assert_array_equal(counts["top1"], np.argmax(logits, -1) == labels)
    assert 0 < counts["top1"].sum() < counts["top5"].sum() < 300


def test_constant_logits_are_right_by_chance_only():
    counts = count_correct(jnp.zeros((10, 10)), jnp.arange(10))
    assert counts["top1"].tolist() == [1.0] + 9 * [0.0]
    assert counts["top5"].tolist() == 5 * [1.0] + 5 * [0.0]


@pytest.mark.parametrize("bad", [[0], [3], list(range(6))], ids=["label", "another", "all"])
def test_nan_never_counts_as_correct(bad):
    logits = jnp.zeros((1, 6)).at[0, 0].set(9.0).at[0, jnp.array(bad)].set(jnp.nan)
    counts = count_correct(logits, jnp.array([0]))
    assert counts["top1"].tolist() == counts["top5"].tolist() == [0.0]


def test_infinite_logits_are_numbers():
    logits = jnp.array([[0.0, jnp.inf, -jnp.inf], [0.0, jnp.inf, -jnp.inf]])
    assert count_correct(logits, jnp.array([1, 2]))["top1"].tolist() == [1.0, 0.0]


def test_with_less_than_five_classes_every_label_is_among_the_best_five():
    assert count_correct(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([2]))["top5"].tolist() == [1.0]
