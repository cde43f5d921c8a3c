"""Streamed correlations against NumPy's, computed from everything at once."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.analysis import correlation
from dynet_jax.analysis.correlation import Correlation, CorrelationStream, correlate, correlate_workdir
from dynet_jax.analysis.correlation_plots import plot_correlations
from dynet_jax.analysis.feature_maps import check_layers, default_layer, list_layers, make_feature_maps
from dynet_jax.errors import UserError
from dynet_jax.models.fcn import FCN
from dynet_jax.trained import open_trained
from tests.analysis.workdirs import digits_images, digits_workdir, register
from tests.models.smallest import random_variables
from tests.train.tiny import tiny_network


@pytest.fixture(autouse=True)
def models():
    register()


def correlated(rng, *shape):
    """Noise whose channels share some of it."""
    mixing = rng.normal(size=(shape[-1], shape[-1]))
    return rng.normal(size=shape) @ mixing * rng.uniform(0.1, 10, shape[-1])


def streamed(maps, sizes):
    stream = CorrelationStream()
    for part in np.split(maps, np.cumsum(sizes)):
        stream.update(part)
    return stream


def by_numpy(maps):
    return np.corrcoef(maps.reshape(-1, maps.shape[-1]).astype(np.float64), rowvar=False)


@pytest.mark.parametrize("sizes", [[], [20], [1, 2, 3, 30], [7] * 5, [1] * 39])
def test_any_batches_give_numpys_matrix(sizes):
    maps = correlated(np.random.default_rng(0), 40, 3, 5, 8)
    stream = streamed(maps, sizes)
    np.testing.assert_allclose(stream.matrix(), by_numpy(maps), rtol=0, atol=1e-12)
    assert (stream.images, stream.positions) == (40, 40 * 15)


def test_large_maps_are_added_in_parts(monkeypatch):
    monkeypatch.setattr(correlation, "VALUES_AT_ONCE", 100)
    maps = correlated(np.random.default_rng(8), 9, 5, 5, 8)
    stream = streamed(maps, [4])
    np.testing.assert_allclose(stream.matrix(), by_numpy(maps), rtol=0, atol=1e-12)
    assert (stream.images, stream.positions) == (9, 9 * 25)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_large_mean_costs_no_digits(offset):
    maps = correlated(np.random.default_rng(1), 30, 4, 4, 6)
    # A mean that drifts, too, so that the parts' means differ.
    maps = maps + offset * np.linspace(0.9, 1.1, 6)
    np.testing.assert_allclose(streamed(maps, [3, 10, 10]).matrix(), by_numpy(maps), rtol=0, atol=1e-9)


def test_float32_maps_are_added_up_in_float64():
    maps = (correlated(np.random.default_rng(2), 64, 8, 8, 5) + 100).astype(np.float32)
    np.testing.assert_allclose(streamed(maps, [16, 16, 16]).matrix(), by_numpy(maps), rtol=0, atol=1e-12)


def test_dead_channels_are_in_no_pair():
    maps = correlated(np.random.default_rng(3), 12, 3, 3, 6).astype(np.float32)
    alive = [0, 2, 3, 5]
    maps[..., 1], maps[..., 4] = 0.0, 0.1  # whose mean is not 0.1 to the last bit
    stream = streamed(maps, [5])
    summary = stream.summary()
    assert (summary.channels, summary.dead, summary.pairs) == (6, 2, 6)
    wanted = by_numpy(maps[..., alive])[np.triu_indices(4, 1)]
    np.testing.assert_allclose(stream.values(), wanted, rtol=0, atol=1e-12)


def test_a_channel_that_is_constant_within_batches_only_is_alive():
    maps = np.random.default_rng(4).normal(size=(4, 2, 2, 3))
    maps[:2, ..., 0], maps[2:, ..., 0] = 1.0, 2.0
    stream = streamed(maps, [2])
    assert stream.summary().dead == 0
    np.testing.assert_allclose(stream.matrix(), by_numpy(maps), rtol=0, atol=1e-12)


def test_the_summary_against_a_loop():
    maps = correlated(np.random.default_rng(5), 10, 4, 4, 30)
    matrix, bins, size, within = by_numpy(maps), dict.fromkeys("SMWN", 0), 0.0, 0
    for row in range(30):
        for column in range(row):
            r = matrix[row, column]
            bins["S" if abs(r) >= 0.5 else "M" if abs(r) >= 0.3 else "W" if abs(r) >= 0.1 else "N"] += 1
            size, within = size + abs(r), within + (-0.1 <= r <= 0.2)
    summary = streamed(maps, [4]).summary()
    pairs = 30 * 29 // 2
    found = [summary.strong, summary.middle, summary.weak, summary.none, summary.mean_magnitude, summary.within]
    np.testing.assert_allclose(found, [*(count / pairs for count in bins.values()), size / pairs, within / pairs])
    assert summary.pairs == sum(summary.histogram) == pairs
    assert sum(summary.histogram[:10]) == np.sum(matrix[np.triu_indices(30, 1)] < -0.8)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pairs(channels, tmp_path):
    summary = streamed(np.ones((4, 2, 2, channels)), []).summary()
    assert (summary.dead, summary.pairs, summary.mean_magnitude, summary.within) == (channels, 0, None, None)
    assert Correlation.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary
    assert all(file.exists() for file in plot_correlations({"none": summary}, tmp_path / "figure", ""))


def test_maps_that_are_not_finite():
    with pytest.raises(UserError, match="not finite"):
        streamed(np.full((1, 2, 2, 2), np.nan), [])
    with pytest.raises(UserError, match="no feature maps"):
        CorrelationStream().summary()


def test_padded_examples_do_not_count():
    model = tiny_network(5, strides=2)
    variables = random_variables(model, 16)
    images = np.random.default_rng(6).normal(size=(10, 16, 16, 3)).astype(np.float32)
    padded = np.concatenate([images[8:], np.full((2, 16, 16, 3), 1e3, np.float32)])
    batches = [{"image": images[:4]}, {"image": images[4:8]}, {"image": padded, "mask": np.asarray([1, 1, 0, 0])}]
    streams = correlate(model, variables, batches, ["stage1", "stage1_block1/project"])
    maps = jax.jit(lambda v, x: model.apply(v, x, features_only=True))(variables, images)["stage1"]
    np.testing.assert_allclose(streams["stage1"].matrix(), by_numpy(np.asarray(maps)), atol=1e-5)
    assert streams["stage1_block1/project"].images == 10


def test_layers_by_name():
    model = tiny_network(5, strides=2)
    variables = random_variables(model, 16)
    layers = list_layers(model, variables, (16, 16, 3))
    assert list(layers)[:2] == ["stem", "stage1"]
    assert (layers["stem"], layers["stage1"], layers["stage1_block1/expand"]) == ((8, 8, 12), (4, 4, 12), (8, 8, 12))
    assert layers["head"] == (4, 4, 24)
    assert not any("predictor" in name or name == "classifier" for name in layers)
    assert default_layer(model, layers) == "stem"
    images = np.random.default_rng(7).normal(size=(2, 16, 16, 3)).astype(np.float32)
    maps = make_feature_maps(model, ["stage1", "stage1_block1"])(variables, images)
    np.testing.assert_array_equal(maps["stage1"], maps["stage1_block1"])
    again = list_layers(model.clone(remat=True), variables, (16, 16, 3))
    assert again == layers
    with pytest.raises(UserError, match=r"no layer 'stage2' with feature maps; did you mean stage1"):
        check_layers(["stem", "stage2"], layers)
    with pytest.raises(UserError, match=r"choose from: head, stage1, stem, or the path of a module"):
        check_layers(["xyz"], layers)


def test_a_backbone_has_stages():
    model = FCN(tiny_network(3, strides=2), num_classes=3, hidden_features=8)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 24, 3)))
    layers = list_layers(model, variables, (16, 24, 3))
    assert (layers["stage1"], layers["head"]) == ((4, 6, 12), (4, 6, 8))
    assert layers["backbone/stage1_block1/spatial"] == (4, 6, 12)


class Users(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), name="first")(x)
        twice = nn.Conv(4, (1, 1), name="twice")
        return twice(twice(x)).mean((1, 2))


def test_a_users_network():
    variables = jax.eval_shape(lambda key: Users().init(key, jnp.ones((1, 8, 8, 3)), train=False), jax.random.key(0))
    layers = list_layers(Users(), variables, (8, 8, 3))
    assert layers == {"first": (8, 8, 4)}
    with pytest.raises(UserError, match=r"has no stages: name a layer; choose from: first"):
        default_layer(Users(), layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny_static"])
def test_a_work_directory(name, tmp_path):
    workdir, said = digits_workdir(tmp_path / "run", name), []
    found = correlate_workdir(workdir, ["stage1"], images=70, say=said.append)["stage1"]
    network = open_trained(workdir)
    images, _ = digits_images(network.config, 70)
    apply = jax.jit(lambda v, x: network.model.apply(v, x, train=False, features_only=True)["stage1"])
    values = by_numpy(np.asarray(apply(network.variables, images)))[np.triu_indices(12, 1)]
    assert (found.images, found.positions, found.pairs) == (70, 70 * 16, 66)
    assert found.mean_magnitude == pytest.approx(np.abs(values).mean(), abs=1e-5)
