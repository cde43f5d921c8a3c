"""Moving averages of the parameters, and the norms that distinguish a good step from a bad one."""

import itertools

import jax
import numpy as np
import pytest

from dynet_jax.devices import make_layout, to_devices
from dynet_jax.train.step import make_train_step
from tests.train.tasks import classification
from tests.train.test_step import OPTIMIZER, PIXELS, make_batch, make_state, tiny_model

DECAY = 0.25


def steps_with_ema(devices: int, count: int):
    """-> the states before and after each step, and the metrics."""
    layout = make_layout(16, 8, devices=jax.devices()[:devices])
    model = tiny_model(layout, 8)
    state = make_state(model, layout)
    state = state.replace(ema=jax.tree.map(lambda leaf: leaf.copy(), state.variables))
    step = make_train_step(model, OPTIMIZER, layout, classification(label_smoothing=0.1), ema_decay=DECAY, **PIXELS)
    states, metrics = [jax.device_get(state)], []
    for index in range(count):
        state, sums = step(state, to_devices(make_batch(16, seed=index), layout))
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(sums))
    return states, metrics


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_averages_follow_parameters_and_statistics(devices):
    states, _ = steps_with_ema(devices, 5)
    expected = states[0].variables
    for before, after in itertools.pairwise(states):
        decay = min(DECAY, (1 + int(before.step)) / (10 + int(before.step)))
        expected = jax.tree.map(lambda ema, new, d=decay: d * ema + (1 - d) * new, expected, after.variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, expected)
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, states[-1].ema["params"], states[-1].params)
    assert any(jax.tree.leaves(changed))
    assert states[-1].averaged_variables is states[-1].ema


@pytest.mark.slow
def test_norms_are_of_the_mean_gradient_and_the_new_parameters():
    states, metrics = steps_with_ema(8, 1)
    norm = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in jax.tree.leaves(states[1].params)))
    assert metrics[0]["parameter_norm"] / metrics[0]["examples"] == pytest.approx(norm, rel=1e-5)
    # At the first step the momentum is the gradient.
    traces = [leaf for leaf in jax.tree.leaves(states[1].opt_state) if leaf.ndim]
    norm = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in traces))
    assert metrics[0]["gradient_norm"] / metrics[0]["examples"] == pytest.approx(norm, rel=1e-5)
