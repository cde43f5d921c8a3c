"""Effective ranks of matrices whose singular values are known, and of kernels fused one by one."""

import json

import jax
import numpy as np
import pytest

from dynet_jax import ops
from dynet_jax.analysis.coefficient_plots import plot_ranks
from dynet_jax.analysis.coefficients import gather_coefficients
from dynet_jax.analysis.rank import Rank, effective_rank, list_convolutions, rank_of_kernel, rank_over_images, ranks
from dynet_jax.errors import UserError
from tests.models.smallest import random_variables
from tests.train.tiny import tiny_network


def with_singular_values(rng, rows, columns, values):
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(columns, len(values))))
    return left * values @ right.T


def entropy_rank(values):
    shares = np.asarray(values, float) / np.sum(values)
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("values", [[1, 1, 1, 1], [3], [2, 2], [5, 3, 1], [1, 0.01]])
def test_known_singular_values(values):
    matrix = with_singular_values(np.random.default_rng(0), 9, 6, values)
    assert effective_rank(matrix) == pytest.approx(entropy_rank(values), abs=1e-6)
    assert effective_rank(-7 * matrix.T) == pytest.approx(entropy_rank(values), abs=1e-6)


def test_matrices_of_zeros_and_stacks():
    stack = np.stack([np.zeros((3, 3)), np.eye(3)])
    np.testing.assert_allclose(effective_rank(stack), [0, 3])


def test_groups_are_matrices_of_their_own():
    rng = np.random.default_rng(1)
    parts = [with_singular_values(rng, 18, 4, [1] * rank) for rank in (1, 2, 4)]
    kernel = np.concatenate(parts, axis=1).reshape(3, 3, 2, 12)
    rank, largest = rank_of_kernel(kernel, groups=3)
    assert (rank, largest) == (pytest.approx(7 / 3), 4)
    assert rank_of_kernel(kernel)[1] == 12
    assert rank_of_kernel(rng.normal(size=(3, 3, 1, 8)), groups=8) == (pytest.approx(1), 1)


@pytest.mark.parametrize(("images", "shared"), [(20, False), (3, False), (20, True)])
def test_over_images_against_kernels_fused_one_by_one(images, shared):
    rng = np.random.default_rng(2)
    bank = rng.normal(size=(5, 3, 3, 2, 4)).astype(np.float32)
    eta = rng.uniform(size=(images, 5, 1 if shared else 4)).astype(np.float32)
    fused = np.asarray(ops.fuse_kernels(bank, eta), np.float64)
    wanted = [effective_rank(fused[..., channel].reshape(images, -1)) for channel in range(4)]
    np.testing.assert_allclose(rank_over_images(bank, eta), wanted, rtol=1e-4)


def test_over_images_at_its_ends():
    bank = np.eye(4).reshape(4, 1, 1, 4, 1)
    assert rank_over_images(bank, np.full((9, 4, 1), 0.5)) == pytest.approx([1])
    assert rank_over_images(bank, np.eye(4).reshape(4, 4, 1)) == pytest.approx([4])
    # Weights fewer than fixed kernels limit it.
    assert rank_over_images(np.ones((4, 1, 1, 1, 1)), np.eye(4).reshape(4, 4, 1)) == pytest.approx([1])


def test_a_dynamic_network_beside_a_static_one(tmp_path):
    dynamic = tiny_network(5, strides=2, group_size=3)
    static = dynamic.clone(dynamic=None)
    variables = random_variables(dynamic, 16)
    images = np.random.default_rng(3).normal(size=(10, 16, 16, 3)).astype(np.float32)
    coefficients = gather_coefficients(dynamic, variables, [{"image": images}])
    convolutions = list_convolutions(dynamic, variables, (16, 16, 3))
    found = ranks(convolutions, coefficients, images=4)

    names = ["stem", *(f"stage1_block1/{name}" for name in ("expand", "spatial", "project")), "head"]
    assert list(found) == names
    assert [rank.is_dynamic for rank in found.values()] == [False, True, True, True, False]
    # 12 channels in 2 groups of 6.
    assert [rank.largest for rank in found.values()] == [12, 12, 6, 12, 12]
    bank = variables["params"]["stage1_block1"]["spatial"]["kernels"]
    eta = coefficients.layers["stage1_block1/spatial"][[0, 2, 5, 7]]
    fused = np.asarray(jax.jit(ops.fuse_kernels)(bank, eta))
    matrices = [kernel.reshape(54, 12)[:, columns] for kernel in fused for columns in (slice(6), slice(6, 12))]
    rank = found["stage1_block1/spatial"]
    assert rank.rank == pytest.approx(np.mean([effective_rank(matrix) for matrix in matrices]), rel=1e-4)
    assert (rank.images, rank.group_size, rank.relative) == (4, 3, pytest.approx(rank.rank / 6))
    assert 1 < rank.over_images < 3
    assert Rank.from_dict(json.loads(json.dumps(rank.to_dict()))) == rank

    beside = ranks(list_convolutions(static, random_variables(static, 16), (16, 16, 3)))
    assert list(beside) == names
    assert beside["stage1_block1/expand"].over_images is None
    for networks in ({"dynamic": found, "static": beside}, {"static": beside}):
        assert all(file.stat().st_size > 1000 for file in plot_ranks(networks, tmp_path / "ranks", "ranks"))
    with pytest.raises(UserError, match="stage1_block1/expand is dynamic: its kernels depend on coefficients"):
        ranks(convolutions)
