"""Every registered network takes a training step on 8 devices, with a gradient everywhere; and works in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynet_jax import list_models
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.train.state import TrainState
from dynet_jax.train.step import make_train_step
from tests import reference
from tests.models.smallest import random_variables, shallow, smallest
from tests.train.tasks import classification

BATCH, SIZE, CLASSES = 16, 32, 5
# One of every kind of block: others would only repeat how their parts are spread over devices.
COMPARED = "dy_mobile", "dy_shuffle", "dy_resnet18", "dy_resnet50", "mobilenet_v3_small", "condconv_resnet18"
# Its state is the gradient itself.
KEEP_GRADIENTS = optax.trace(decay=0.0)


def make_batch():
    """Patches of colour under noise, so that images differ even in their mean."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 200, (BATCH, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    images = (patches + rng.integers(0, 56, (BATCH, SIZE, SIZE, 3))).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, CLASSES, BATCH).astype(np.int32)}


def take_step(name, devices):
    """-> (gradients, BatchNorm statistics, metrics) of one step on the global batch."""
    layout = make_layout(BATCH, 8, devices=jax.devices()[:devices])
    model = shallow(smallest(name, CLASSES, small_input=True, bn_batch_size=8, bn_axis_name=layout.bn_axis_name))
    variables = random_variables(model, SIZE)
    params = variables["params"]
    state = TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], KEEP_GRADIENTS.init(params))
    step = make_train_step(
        model, KEEP_GRADIENTS, layout, classification(label_smoothing=0.1), mean=(127.5,) * 3, std=(64.0,) * 3
    )
    state, metrics = step(jax.device_put(state, layout.replicated), to_devices(make_batch(), layout))
    return jax.device_get((state.opt_state.trace, state.batch_stats, metrics))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_one_step(name):
    """The step runs on 8 devices; some networks also run on 1 device, with the same result."""
    eight = take_step(name, 8)
    gradients, _, metrics = eight
    assert metrics["examples"] == BATCH
    assert 0.1 < metrics["loss"] / BATCH < 100
    assert_gradients_everywhere(name, gradients)
    if name in COMPARED:
        # Deep networks with ReLU amplify another order of summation to about 2 %.
        jax.tree_util.tree_map_with_path(lambda path, a, b: assert_close(path, a, b, 0.1), eight, take_step(name, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_forward_in_float32_and_bfloat16(name):
    """Evaluation distinguishes images; in training, every layer's statistics in bfloat16 are close to float32's.

    No more can be asked of the logits: random layers amplify 8 bits to half of them.
    """
    model = shallow(smallest(name, CLASSES, small_input=True))
    half = model.clone(dtype=jnp.bfloat16)
    variables = random_variables(model, SIZE)
    images = (make_batch()["image"].astype(np.float32) - 127.5) / 64

    @reference.jit
    def run(variables, images):
        (_, full), (half_logits, low) = (
            network.apply(variables, images, train=True, mutable=["batch_stats"]) for network in (model, half)
        )
        # The batch's own statistics, out of the running ones: with random ones ReLU6 would clip everything.
        batch = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, full["batch_stats"], variables["batch_stats"])
        return model.apply({**variables, "batch_stats": batch}, images), half_logits, low, full

    logits, half_logits, statistics, expected = jax.device_get(run(variables, images))
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).min() > 1e-4 * np.abs(logits).max()
    assert half_logits.dtype == np.float32
    assert np.isfinite(half_logits).all()
    jax.tree_util.tree_map_with_path(lambda path, a, b: assert_close(path, a, b, 0.2), statistics, expected)


def assert_gradients_everywhere(name, gradients):
    for path, gradient in jax.tree.leaves_with_path(gradients):
        leaf = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), leaf
        if not is_cancelled(name, leaf):
            assert np.abs(gradient).max() > 1e-6, f"{leaf} has no gradient"


def is_cancelled(name, leaf):
    """A bias that only static 1x1 convolutions with BatchNorm see, which takes it out again."""
    if "project1_norm" in leaf:  # of ShuffleNet's projections, which are static in Dy-shuffle too
        return "'bias'" in leaf
    stages = shallow(smallest(name, CLASSES, small_input=True)).stages
    before_the_head = f"'stage{len(stages)}_block{len(stages[-1])}'" in leaf
    static = not name.startswith(("dy_", "condconv_"))
    layer = "conv2_norm" if "shuffle" in name else "project_norm"
    return layer in leaf and "'bias'" in leaf and (static or (before_the_head and "shuffle" not in name))


def assert_close(path, leaf, expected, tolerance):
    """Compares gradients by length, down to the rounding errors of a gradient that cancels."""
    difference = np.linalg.norm(leaf - expected)
    assert difference < tolerance * np.linalg.norm(expected) + 1e-5, jax.tree_util.keystr(path)
