"""Every registered network takes a training step: on 1 device and on 8, with a gradient everywhere, and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynet_jax import list_models
from dynet_jax.train.distributed import make_layout, to_devices
from dynet_jax.train.state import TrainState
from dynet_jax.train.step import make_train_step
from tests import reference
from tests.models.smallest import smallest

BATCH, SIZE, CLASSES = 16, 32, 5
# Its state is the gradient itself.
KEEP_GRADIENTS = optax.trace(decay=0.0)


def make_batch():
    """Patches of colour under noise, so that images differ even in their mean."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 200, (BATCH, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    images = (patches + rng.integers(0, 56, (BATCH, SIZE, SIZE, 3))).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, CLASSES, BATCH).astype(np.int32)}


def random_variables(model):
    """Random everywhere: in a fresh network a residual block's last scale is 0, and nothing inside has a gradient."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "'predictor'" in name and "'kernel'" in name:  # coefficients that differ between images, but not saturated
            return (rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])).astype(np.float32)
        if "'kernel" in name:
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[-4:-1]))).astype(np.float32)
        if "'bias'" in name or "'mean'" in name:
            return (0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def take_step(name, devices):
    """-> (gradients, BatchNorm statistics, metrics) of one step on the global batch."""
    layout = make_layout(BATCH, 8, devices=jax.devices()[:devices])
    model = smallest(name, CLASSES, small_input=True, bn_batch_size=8, bn_axis_name=layout.bn_axis_name)
    variables = random_variables(model)
    params = variables["params"]
    state = TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], KEEP_GRADIENTS.init(params))
    step = make_train_step(model, KEEP_GRADIENTS, layout, label_smoothing=0.1, mean=(127.5,) * 3, std=(64.0,) * 3)
    state, metrics = step(jax.device_put(state, layout.replicated), to_devices(make_batch(), layout))
    return jax.device_get((state.opt_state.trace, state.batch_stats, metrics))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_one_step(name):
    one, eight = take_step(name, 1), take_step(name, 8)
    gradients, _, metrics = one
    assert metrics["examples"] == BATCH
    assert 0.1 < metrics["loss"] / BATCH < 100

    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.abs(gradient).max() > 0, f"{jax.tree_util.keystr(path)} has no gradient"
    jax.tree_util.tree_map_with_path(assert_close, eight, one)


def assert_close(path, leaf, expected):
    """To a tenth of its length: deep networks with ReLU amplify another order of summation to about 2 %.

    What has no effect, the bias before another normalisation, has a gradient of rounding errors below 1e-6.
    """
    difference = np.linalg.norm(leaf - expected)
    assert difference < 0.1 * np.linalg.norm(expected) + 1e-5, jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_bfloat16_is_close_to_float32(name):
    """In training, where BatchNorm keeps random networks from exploding."""
    model = smallest(name, CLASSES, small_input=True)
    variables = random_variables(model)
    images = (make_batch()["image"].astype(np.float32) - 127.5) / 64

    @reference.jit
    def run(variables, images):
        networks = (model, model.clone(dtype=jnp.bfloat16))
        return [network.apply(variables, images, train=True, mutable=["batch_stats"]) for network in networks]

    (full, full_statistics), (half, half_statistics) = jax.device_get(run(variables, images))
    assert half.dtype == np.float32
    # Fifty random layers on a small batch amplify 8 bits to as much as 0.6 in the logits; unrelated ones have 1.4.
    assert 0 < np.linalg.norm(half - full) < 0.8 * np.linalg.norm(full - full.mean(0))
    for a, b in zip(jax.tree.leaves(half_statistics), jax.tree.leaves(full_statistics), strict=True):
        assert a.dtype == np.float32
        assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b)
