"""Dropout and stochastic depth: probabilities, expectations, and one key per image; off in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import create_model
from dynet_jax.errors import UserError
from dynet_jax.layers import image_noise
from dynet_jax.layers.image_noise import dropout, image_keys

KEYS = jax.random.split(jax.random.key(0), 400)


def test_dropout_keeps_the_expectation():
    with image_keys(KEYS):
        got = np.asarray(dropout(jnp.full((400, 50), 3.0), 0.2, site=1))
    assert set(np.unique(got)) == {0.0, np.float32(3 / 0.8)}
    assert (got == 0).mean() == pytest.approx(0.2, abs=0.01)
    assert got.mean() == pytest.approx(3, abs=0.05)


def test_stochastic_depth_drops_whole_images():
    with image_keys(KEYS):
        got = np.asarray(dropout(jnp.ones((400, 3, 3, 2)), 0.4, site=1, whole_images=True)).reshape(400, -1)
    assert (got == got[:, :1]).all()
    assert (got[:, 0] == 0).mean() == pytest.approx(0.4, abs=0.08)


def test_draws_depend_on_the_key_of_the_image_and_the_site_alone():
    with image_keys(KEYS[:6]):
        together, elsewhere = (dropout(jnp.ones((6, 40)), 0.5, site=site) for site in (1, 2))
    with image_keys(KEYS[2:4]):
        np.testing.assert_array_equal(dropout(jnp.ones((2, 40)), 0.5, site=1), together[2:4])
    assert not np.array_equal(together, elsewhere)


def small(name="mobilenet_v2", **arguments):
    model = create_model(name, num_classes=4, small_input=True, width=0.25, **arguments)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return model, model.init(jax.random.key(0), images), images


def test_a_network_in_evaluation_is_not_affected():
    plain, variables, images = small()
    noisy, other, _ = small(dropout=0.5, stochastic_depth=0.5)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, other)
    np.testing.assert_array_equal(noisy.apply(variables, images), plain.apply(variables, images))


def test_rates_rise_to_the_last_block(monkeypatch):
    """ResNet18 has eight blocks: the rate of block l is l / 8 of the last one's."""
    drawn = []
    monkeypatch.setattr(
        "dynet_jax.layers.blocks.dropout", lambda x, rate, site, whole_images: drawn.append((rate, site)) or x
    )
    model, variables, images = small("resnet18", stochastic_depth=0.4)
    jax.eval_shape(lambda: model.apply(variables, images, train=True, mutable=["batch_stats"]))
    assert drawn == [(pytest.approx(0.4 * n / 8), n) for n in range(1, 9)]


@pytest.mark.parametrize("remat", [False, True])
def test_a_dropped_branch_has_no_gradient(remat):
    """With every branch dropped, a residual block is its shortcut, recomputed or not."""
    model, variables, images = small("mobilenet_v2", stochastic_depth=0.5, remat=remat)
    keys = jnp.broadcast_to(KEYS[0], (4,))

    def loss(params):
        with image_keys(keys):
            given = {**variables, "params": params}
            return model.apply(given, images, train=True, mutable=["batch_stats"])[0].sum()

    gradients = jax.grad(loss)(variables["params"])
    shortcuts = [(n, f"stage{s}_block{b}") for n, (s, b) in enumerate(blocks(model), start=1) if b > 1]
    total = len(list(blocks(model)))
    for number, name in shortcuts:
        kept = jax.random.bernoulli(jax.random.fold_in(KEYS[0], number), 1 - 0.5 * number / total, (1, 1, 1))
        assert bool(np.any(gradients[name]["project_norm"]["bias"])) == bool(kept.item()), name


def blocks(model):
    return ((s, b) for s, specs in enumerate(model.stages, start=1) for b in range(1, len(specs) + 1))


def test_training_without_keys_is_refused():
    model, variables, images = small(dropout=0.1)
    with pytest.raises(UserError, match="image_keys"):
        model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert image_noise._keys.get() is None


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("shufflenet_v2", {"stochastic_depth": 0.1}, "this network has none"),
        ("resnet18", {"dropout": 1.0}, "dropout must be at least 0 and less than 1, not 1.0"),
        ("fcn_dy_mobile", {"dropout": 0.1}, "dropout is for classifiers"),
        ("fcn_dy_mobile", {"stochastic_depth": 0.1}, "stochastic_depth is for classifiers"),
    ],
)
def test_networks_without_use_for_it_are_refused(name, arguments, told):
    with pytest.raises(UserError, match=told):
        create_model(name, **arguments)
