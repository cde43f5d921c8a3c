"""A training step is one function: the same numbers on any number of devices, in one piece or in micro-batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynet_jax.devices import make_layout, to_devices
from dynet_jax.evaluation.step import make_eval_step
from dynet_jax.train.optim import make_optimizer
from dynet_jax.train.schedule import make_schedule
from dynet_jax.train.state import make_initialiser
from dynet_jax.train.step import make_train_step
from tests.train.tasks import classification
from tests.train.tiny import tiny_network

PIXELS = {"mean": (127.5, 120.0, 110.0), "std": (60.0, 61.0, 62.0)}
OPTIMIZER = make_optimizer(
    make_schedule(0.2, 0, 10), arguments={"momentum": 0.9}, weight_decay=0.0, decay_parameters="kernels"
)


def tiny_model(layout, bn_batch_size):
    return tiny_network(5, strides=1, bn_batch_size=bn_batch_size, bn_axis_name=layout.bn_axis_name)


def make_state(model, layout):
    """Random everywhere: in a fresh state a residual block's last scale is 0, and nothing inside has a gradient."""
    state = make_initialiser(model, OPTIMIZER, image_size=12)(1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape).astype(np.float32), state.params)
    return jax.device_put(state.replace(params=params), layout.replicated)


def assert_same_states(actual, expected):
    """Parameters, statistics and, by the momentum, every gradient: each to 1e-3 of its largest entry."""

    def compare(path, a, b):
        name, largest = jax.tree_util.keystr(path), np.abs(b).max()
        # The head's BatchNorm takes out whatever the bias before it adds; all else must have something to compare.
        without_effect = "project_norm" in name and "bias" in name
        assert largest > 1e-4 or without_effect or name == ".step", f"{name} tells nothing"
        np.testing.assert_allclose(a, b, atol=1e-3 * max(largest, 1e-3), rtol=0, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, actual, expected)


def assert_same_metrics(actual, expected):
    """Compares to 1e-5, and a deviation, which is a small difference of larger sums, to 1e-3."""
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-3 if "coefficients/" in key else 1e-5, err_msg=key)


def make_batch(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 12, 12, 3), np.uint8),
        "label": rng.integers(0, 5, size).astype(np.int32),
    }


def run_steps(devices, bn_batch_size, batch_size=16, accumulation_steps=1, steps=2):
    layout = make_layout(batch_size, bn_batch_size, accumulation_steps, devices=jax.devices()[:devices])
    model = tiny_model(layout, bn_batch_size)
    state = make_state(model, layout)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), **PIXELS)
    metrics = []
    for index in range(steps):
        state, sums = step(state, to_devices(make_batch(batch_size, index), layout))
        metrics.append(jax.device_get(sums))
    return jax.device_get(state), metrics


def plain_step(state, model, batch):
    """The step as a textbook has it, on one device and without any of the package's training code."""

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        images = (jnp.asarray(batch["image"], jnp.float32) - jnp.array(PIXELS["mean"])) / jnp.array(PIXELS["std"])
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        targets = jax.nn.one_hot(batch["label"], 5) * 0.9 + 0.1 / 5
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), -1)), updates["batch_stats"]

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = OPTIMIZER.update(gradients, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=stats,
        opt_state=opt_state,
    ), value


@pytest.mark.slow
def test_one_device_equals_the_textbook_step():
    layout = make_layout(16, 8, devices=jax.devices()[:1])
    model = tiny_model(layout, 8)
    state = make_state(model, layout)
    losses = []
    for index in range(2):
        state, loss = jax.jit(plain_step, static_argnums=1)(state, model, make_batch(16, index))
        losses.append(loss)
    actual, metrics = run_steps(1, 8)
    assert_same_states(actual.replace(coefficients={}), jax.device_get(state).replace(coefficients={}))
    np.testing.assert_allclose([m["loss"] / m["examples"] for m in metrics], losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bn_batch_size", [2, 8, None], ids=["groups-on-a-device", "groups-over-devices", "whole-batch"]
)
def test_eight_devices_equal_one(bn_batch_size):
    one, one_metrics = run_steps(1, bn_batch_size)
    eight, eight_metrics = run_steps(8, bn_batch_size)
    assert_same_states(eight, one)
    assert_same_metrics(eight_metrics, one_metrics)
    assert one_metrics[0]["examples"] == 16


@pytest.mark.slow
def test_bn_groups_change_the_function():
    """Otherwise the test above would pass with groups that are ignored."""
    small, _ = run_steps(1, 2, steps=1)
    whole, _ = run_steps(1, None, steps=1)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(small.params, whole.params, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_accumulation_equals_one_pass(devices):
    whole, whole_metrics = run_steps(devices, 2)
    parts, parts_metrics = run_steps(devices, 2, accumulation_steps=2)
    assert_same_states(parts, whole)
    assert_same_metrics(parts_metrics, whole_metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("bn_batch_size", "accumulation_steps"), [(2, 1), (8, 1), (None, 1), (1, 2)])
def test_compiled_step_only_reduces(bn_batch_size, accumulation_steps):
    """Batches and kernels never travel between devices: all-reduces of gradients, statistics and sums only."""
    layout = make_layout(16, bn_batch_size, accumulation_steps)
    model = tiny_model(layout, bn_batch_size)
    state = make_initialiser(model, OPTIMIZER, image_size=12, sharding=layout.replicated)(1)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), **PIXELS)
    hlo = step.lower(state, to_devices(make_batch(16), layout)).compile().as_text()
    assert "all-reduce" in hlo
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in hlo


@pytest.mark.slow
def test_the_step_is_traced_once():
    layout = make_layout(8, 4, devices=jax.devices()[:1])
    model = tiny_model(layout, 4)
    state = make_initialiser(model, OPTIMIZER, image_size=12, sharding=layout.replicated)(1)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), **PIXELS)
    for index in range(3):
        state, _ = step(state, to_devices(make_batch(8, index), layout))
    assert step._cache_size() == 1


@pytest.mark.slow
def test_the_state_is_donated():
    layout = make_layout(8, 4, devices=jax.devices()[:1])
    model = tiny_model(layout, 4)
    state = make_initialiser(model, OPTIMIZER, image_size=12, sharding=layout.replicated)(1)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), **PIXELS)
    step(state, to_devices(make_batch(8), layout))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_parameters_stay_float32_in_bfloat16():
    layout = make_layout(8, 4, devices=jax.devices()[:1])
    model = tiny_model(layout, 4).clone(dtype=jnp.bfloat16)
    state = make_initialiser(model, OPTIMIZER, image_size=12, sharding=layout.replicated)(1)
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), **PIXELS)
    state, metrics = step(state, to_devices(make_batch(8), layout))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype("float32")}
    assert np.isfinite(metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_ignores_the_padding(devices):
    layout = make_layout(devices, 1, devices=jax.devices()[:devices])
    model = tiny_model(layout, 1)
    state = make_initialiser(model, OPTIMIZER, image_size=12, sharding=layout.replicated)(1)
    batch = make_batch(16)
    mask = (np.arange(16) < 11).astype(np.float32)
    sums = make_eval_step(model, layout, classification(), **PIXELS)(
        state.variables, to_devices({**batch, "mask": mask}, layout)
    )

    images = (batch["image"][:11].astype(np.float32) - np.array(PIXELS["mean"])) / np.array(PIXELS["std"])
    logits = np.asarray(model.apply(jax.device_get(state.variables), jnp.asarray(images, jnp.float32)))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert sums["examples"] == 11
    np.testing.assert_allclose(sums["loss"], -log_p[np.arange(11), batch["label"][:11]].sum(), rtol=1e-4)
    assert sums["top1"] == (logits.argmax(-1) == batch["label"][:11]).sum()
    assert sums["top5"] == 11
