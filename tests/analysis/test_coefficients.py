"""Coefficients of networks with known predictors, and their statistics, against loops."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import CoefficientPredictor, CoefficientSpec, DynamicConv
from dynet_jax.analysis.coefficient_plots import plot_coefficients, plot_variation
from dynet_jax.analysis.coefficients import (
    Coefficients,
    CoefficientSummary,
    between_classes,
    coefficients_of_workdir,
    gather_coefficients,
    make_coefficients,
    summarize_coefficients,
)
from dynet_jax.analysis.neighbour_plots import plot_nearest_images
from dynet_jax.analysis.neighbours import choose_queries, nearest_images
from dynet_jax.analysis.rank import ranks_of_trained
from dynet_jax.errors import UserError
from dynet_jax.layers.blocks import Dynamic
from dynet_jax.trained import open_trained
from tests.analysis.workdirs import digits_images, digits_workdir, register
from tests.models.smallest import random_variables
from tests.train.tiny import tiny_network


@pytest.fixture(autouse=True)
def models():
    register()


class Known(nn.Module):
    """A network whose coefficients depend only on the mean of the image."""

    @nn.compact
    def __call__(self, x, train):
        first, second = CoefficientPredictor((4, 2), group_size=3, name="predictor")(x)
        y = DynamicConv(4, (3, 3), group_size=3, name="first")(x, first)
        y = DynamicConv(2, (1, 1), group_size=3, name="second")(y, coefficients=second)
        spec = CoefficientSpec(2, coefficient_scope="layer", activation="softmax")
        own = DynamicConv(5, (1, 1), spec=spec, name="own")(x)
        return y.mean((1, 2)), own.mean((1, 2))


@pytest.fixture(scope="module")
def known():
    """(variables, images, {layer: coefficients by numpy})"""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(11, 6, 6, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: Known().init(key, images, train=False), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def logits(dense):
        return images.mean((1, 2)).astype(np.float64) @ dense["kernel"] + dense["bias"]

    shared = 1 / (1 + np.exp(-logits(variables["params"]["predictor"]["coefficients"])))
    own = np.exp(logits(variables["params"]["own"]["predictor"]["coefficients"]))
    wanted = {
        "first": shared[:, :12].reshape(11, 3, 4),
        "second": shared[:, 12:].reshape(11, 3, 2),
        "own": (own / own.sum(axis=1, keepdims=True))[..., None],
    }
    return variables, images, wanted


def test_coefficients_are_named_by_their_convolutions(known):
    variables, images, wanted = known
    found = make_coefficients(Known())(variables, images)
    assert list(found) == list(wanted)
    for layer, values in wanted.items():
        np.testing.assert_allclose(found[layer], values, atol=1e-5)


@pytest.mark.parametrize("size", [4, 11])
def test_any_batches_and_what_does_not_count(known, size):
    variables, images, wanted = known
    batches = []
    for start in range(0, 12, size):
        index = np.arange(start, start + size)
        mask = (index < 11) & (index != 2)
        batch = images[np.minimum(index, 10)]
        batches.append({"image": batch, "mask": mask, "label": index % 3, "index": index})
    found = gather_coefficients(Known(), variables, batches)
    kept = [index for index in range(11) if index != 2]
    assert found.indices.tolist() == kept
    assert found.labels.tolist() == [index % 3 for index in kept]
    for layer, values in wanted.items():
        np.testing.assert_allclose(found.layers[layer], values[kept], atol=1e-5)
    unlabelled = gather_coefficients(Known(), variables, [{"image": images}])
    assert unlabelled.labels is None
    assert summarize_coefficients(unlabelled)["own"].between_classes is None


@pytest.mark.parametrize("per", ["block", "layer"])
@pytest.mark.parametrize("scope", ["channel", "layer"])
def test_networks_of_the_package(per, scope):
    dynamic = Dynamic(group_size=4, predictor_per=per, coefficient_scope=scope)
    model = tiny_network(5, strides=2).clone(dynamic=dynamic)
    images = jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32)
    for network in (model, model.clone(remat=True)):
        variables = jax.eval_shape(network.init, jax.random.key(0), images)
        shapes = {}

        def note(variables, images, network=network, shapes=shapes):
            found = make_coefficients(network)(variables, images)
            shapes.update({layer: values.shape for layer, values in found.items()})

        jax.eval_shape(note, variables, images)
        channels = 12 if scope == "channel" else 1
        assert shapes == {f"stage1_block1/{name}": (3, 4, channels) for name in ("expand", "spatial", "project")}


def test_a_convolution_that_is_called_twice():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            conv = DynamicConv(3, (1, 1), group_size=2, name="conv")
            return conv(conv(x, jnp.full((len(x), 2, 3), 0.25)), jnp.full((len(x), 2, 3), 0.5))

    images = np.ones((2, 4, 4, 3), np.float32)
    variables = Twice().init(jax.random.key(0), images, train=False)
    found = make_coefficients(Twice())(variables, images)
    assert {layer: float(np.mean(values)) for layer, values in found.items()} == {"conv": 0.25, "conv (2)": 0.5}


def test_the_summary_against_loops():
    rng = np.random.default_rng(1)
    labels = np.asarray([0] * 5 + [2] * 8 + [7])
    values = rng.uniform(size=(14, 6, 3)) * 0.5 + 0.1 * (labels == 2)[:, None, None]
    summary = summarize_coefficients(Coefficients({"conv": values}, labels, np.arange(14)))["conv"]

    entropies, deviations, between, total = [], [], 0.0, 0.0
    for group in range(6):
        for channel in range(3):
            column = values[:, group, channel]
            deviations.append(column.std())
            for value, label in zip(column, labels):
                between += (column[labels == label].mean() - column.mean()) ** 2
                total += (value - column.mean()) ** 2
    for image in range(14):
        for channel in range(3):
            shares = values[image, :, channel] / values[image, :, channel].sum()
            entropies.append(-np.sum(shares * np.log(shares)) / np.log(6))
    assert (summary.group_size, summary.channels, summary.images, summary.classes) == (6, 3, 14, 3)
    assert summary.mean == pytest.approx(values.mean())
    assert summary.deviation == pytest.approx(values.std())
    assert summary.entropy == pytest.approx(np.mean(entropies))
    assert summary.deviation_of_images == pytest.approx(np.mean(deviations))
    assert summary.between_classes == pytest.approx(between / total)
    assert summary.between_random_classes == pytest.approx(2 / 13)
    assert sum(summary.histogram) == values.size
    assert sum(summary.histogram[:20]) == np.sum(values < 0.1)
    assert CoefficientSummary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_random_labels_give_what_is_said_beside():
    rng = np.random.default_rng(2)
    values, labels = rng.normal(size=(40, 5)), np.arange(40) % 8
    shares = [between_classes(values, rng.permutation(labels)) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(7 / 39, abs=0.01)


@pytest.mark.parametrize(
    ("group", "entropy"),
    [([0.3, 0.3, 0.3], 1.0), ([0.9, 0.0, 0.0], 0.0), ([0.5], None), ([0.0, 0.0], None), ([0.5, -0.1], None)],
)
def test_entropy(group, entropy):
    values = np.tile(np.asarray(group)[None, :, None], (4, 1, 2))
    summary = summarize_coefficients(Coefficients({"conv": values}, np.arange(4) % 2, np.arange(4)))["conv"]
    assert summary.entropy == (None if entropy is None else pytest.approx(entropy))
    assert summary.between_classes is None  # nothing varies
    assert summary.deviation_of_images == 0


def test_nearest_images_against_a_loop():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 300)
    layers = {"a": rng.uniform(size=(300, 2, 3)), "b": 0.01 * rng.uniform(size=(300, 4, 1)), "c": np.ones((300, 2, 1))}
    near = nearest_images(Coefficients(layers, labels, np.arange(300)), k=4)
    points = np.concatenate([layers["a"].reshape(300, -1), layers["b"].reshape(300, -1)], axis=1)
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    same = 0
    for image in range(300):
        distances = np.sqrt(np.mean((points - points[image]) ** 2, axis=1))
        distances[image] = np.inf
        order = np.argsort(distances)[:4]
        assert near.order[image].tolist() == order.tolist()
        np.testing.assert_allclose(near.distances[image], distances[order], atol=1e-5)
        same += labels[order[0]] == labels[image]
    assert near.same_class == pytest.approx(same / 300)
    pairs = [(i, j) for i in range(300) for j in range(300) if i != j]
    assert near.chance == pytest.approx(np.mean([labels[i] == labels[j] for i, j in pairs]))
    assert json.loads(json.dumps(near.to_dict([5, 7])))["order"] == near.order[[5, 7]].tolist()
    with pytest.raises(UserError, match="300 nearest of 300 images"):
        nearest_images(Coefficients(layers, labels, np.arange(300)), k=300)


def test_queries_are_of_many_classes():
    assert choose_queries(np.asarray([0, 0, 0, 1, 1, 2]), 5) == [0, 3, 5, 1, 4]
    assert choose_queries(None, 2) == [0, 1]


def test_a_static_network_has_none(tmp_path):
    model = tiny_network(5, strides=2).clone(dynamic=None)
    with pytest.raises(UserError, match="the network is static: it has no coefficients"):
        gather_coefficients(model, random_variables(model, 16), [{"image": np.ones((2, 16, 16, 3), np.float32)}])
    with pytest.raises(UserError, match=r"tiny_static of .*run is static"):
        coefficients_of_workdir(digits_workdir(tmp_path / "run", "tiny_static"), images=3)


@pytest.mark.slow
def test_a_work_directory_and_its_figures(tmp_path):
    workdir = digits_workdir(tmp_path / "run", "tiny")
    trained, found = coefficients_of_workdir(workdir, images=70)
    network = open_trained(workdir)
    images, labels = digits_images(network.config, 70)
    assert found.labels.tolist() == labels.tolist()
    wanted = make_coefficients(network.model)(network.variables, images)
    for layer, values in wanted.items():
        np.testing.assert_allclose(found.layers[layer], values, atol=1e-6)

    assert ranks_of_trained(trained, found, images=2)["stage1_block1/project"].images == 2
    summaries, near = summarize_coefficients(found), nearest_images(found, k=3)
    files = plot_coefficients(summaries, tmp_path / "coefficients", "coefficients")
    files += plot_variation({"a": summaries, "b": dict(list(summaries.items())[:2])}, tmp_path / "variation.png", "v")
    files += plot_nearest_images(trained, found, near, choose_queries(found.labels, 2), tmp_path / "nearest.svg")
    names = ["coefficients.png", "coefficients.svg", "variation.png", "nearest.svg"]
    assert [file.name for file in files] == names
    assert all(file.stat().st_size > 1000 for file in files)
