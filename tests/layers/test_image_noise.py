"""Dropout and stochastic depth: probabilities, expectations, and one key per image; off in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import create_model
from dynet_jax.errors import UserError
from dynet_jax.layers import image_noise
from dynet_jax.layers.blocks import ConvSpec
from dynet_jax.layers.image_noise import dropout, image_keys
from dynet_jax.models.mobilenet import BlockSpec, InvertedResidual
from dynet_jax.models.network import Network

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


def small(**options):
    """Returns a static network of three blocks, the last two with a shortcut, its variables, and four images."""
    block = BlockSpec(8, 8, strides=1, feature_group_count=8, expand=True)
    model = Network(
        block=InvertedResidual,
        stages=((block._replace(strides=2), block), (block,)),
        stem=(ConvSpec(8, 3, strides=2),),
        stem_pool=False,
        head=None,
        hidden_features=None,
        activation="relu6",
        num_classes=4,
        dynamic=None,
        **options,
    )
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.slow
def test_a_network_in_evaluation_is_not_affected():
    plain, variables, images = small()
    noisy, other, _ = small(dropout=0.5, stochastic_depth=0.5)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, other)
    np.testing.assert_array_equal(noisy.apply(variables, images), plain.apply(variables, images))


def test_rates_rise_to_the_last_block(monkeypatch):
    """Of three blocks the second and the third have a branch to drop."""
    drawn = []
    monkeypatch.setattr(
        "dynet_jax.layers.blocks.dropout", lambda x, rate, site, whole_images: drawn.append((rate, site)) or x
    )
    model, variables, images = small(stochastic_depth=0.3)
    jax.eval_shape(lambda: model.apply(variables, images, train=True, mutable=["batch_stats"]))
    assert drawn == [(pytest.approx(0.2), 2), (pytest.approx(0.3), 3)]


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_dropped_branch_has_no_gradient(remat):
    """Where the key of all images drops a block's branch, its parameters have no gradient, recomputed or not."""
    model, variables, images = small(stochastic_depth=0.6, remat=remat)

    @jax.jit
    def gradients(key):
        def loss(params):
            with image_keys(jnp.broadcast_to(key, (4,))):
                return model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])[0][
                    0, 0
                ]

        return jax.grad(loss)(variables["params"])

    seen = set()
    for key in KEYS[:12]:
        found = gradients(key)
        for name, number in (("stage1_block2", 2), ("stage2_block1", 3)):
            kept = bool(jax.random.bernoulli(jax.random.fold_in(key, number), 1 - 0.6 * number / 3, (1, 1, 1)).item())
            assert bool(np.any(found[name]["project_norm"]["bias"])) == kept
            seen.add((name, kept))
    assert len(seen) == 4


def test_training_without_keys_is_refused():
    model, variables, images = small(dropout=0.1)
    with pytest.raises(UserError, match="image_keys"):
        jax.eval_shape(lambda: model.apply(variables, images, train=True, mutable=["batch_stats"]))
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
