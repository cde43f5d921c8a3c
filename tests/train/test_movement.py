"""What is told of coefficients while a network trains: against numpy, and that it is told where people look."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.ops.pixels import normalize
from dynet_jax.train import loop
from dynet_jax.train.distributed import make_layout, to_devices
from dynet_jax.train.movement import DEAD, EARLY, KEPT, DeadCoefficients, movement_metrics, movement_sums, of_stages
from dynet_jax.train.step import make_train_step
from tests.train.tasks import classification
from tests.train.test_step import OPTIMIZER, PIXELS, make_batch, make_state, tiny_model

KEYS = ("deviation", "from_mean", "from_half")


def by_numpy(stages, running):
    """stages: {stage: [values [images, g, c], ...]}, running: {stage: [[g, c], ...]}"""
    rows = {}
    for stage, layers in stages.items():
        flat = np.concatenate([values.reshape(len(values), -1) for values in layers], axis=1).astype(np.float64)
        center = np.concatenate([mean.reshape(-1) for mean in running[stage]])
        rows[f"coefficients/{stage}/deviation"] = np.sqrt(flat.var(axis=0).mean())
        rows[f"coefficients/{stage}/from_mean"] = np.sqrt(((flat - center) ** 2).mean())
        rows[f"coefficients/{stage}/from_half"] = np.sqrt(((flat - 0.5) ** 2).mean())
    return rows


def test_root_mean_squares_by_stage():
    rng = np.random.default_rng(0)
    layers = {
        "stage1_block1/conv1": rng.uniform(size=(9, 6, 4)),
        "stage1_block2/conv1": rng.uniform(size=(9, 6, 8)),
        "backbone/stage2_block1/conv1": 0.9 + 0.001 * rng.uniform(size=(9, 4, 1)),  # far from 0.5, hardly moving
    }
    running = {name: rng.uniform(size=values.shape[1:]) for name, values in layers.items()}
    running["backbone/stage2_block1/conv1"] = layers["backbone/stage2_block1/conv1"].mean(axis=0) + 0.001
    means = {name: jnp.asarray(values, jnp.float32) for name, values in running.items()}
    sums = movement_sums(((name, jnp.asarray(values, jnp.float32)) for name, values in layers.items()), means)
    metrics, after = movement_metrics(sums, jnp.float32(9), means)
    first, second, third = layers
    expected = by_numpy(
        {"stage1": [layers[first], layers[second]], "stage2": [layers[third]]},
        {"stage1": [running[first], running[second]], "stage2": [running[third]]},
    )
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3), name
    for name, values in layers.items():
        np.testing.assert_allclose(after[name], KEPT * running[name] + (1 - KEPT) * values.mean(axis=0), rtol=1e-5)


def test_a_running_mean_begins_with_the_first_batch():
    values = np.random.default_rng(0).uniform(size=(7, 3, 2))
    zeros = {"conv": jnp.zeros((3, 2))}
    sums = movement_sums([("conv", jnp.asarray(values, jnp.float32))], zeros)
    metrics, after = movement_metrics(sums, jnp.float32(7), zeros)
    np.testing.assert_allclose(after["conv"], values.mean(axis=0), rtol=1e-5)
    expected = by_numpy({"conv": [values]}, {"conv": [values.mean(axis=0)]})
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(("devices", "accumulation_steps"), [(1, 1), (8, 1), (2, 2)])
def test_a_training_step_measures_the_coefficients_that_it_trains_with(devices, accumulation_steps):
    """Of the whole batch, in training, before the update; the running means go on in the state."""
    layout = make_layout(16, 2, accumulation_steps, devices=jax.devices()[:devices])
    model = tiny_model(layout, 2)
    state, one = make_state(model, layout), tiny_model(make_layout(16, 2, devices=jax.devices()[:1]), 2)
    step = make_train_step(model, OPTIMIZER, layout, classification(), **PIXELS)
    running = None
    for index in range(3):
        batch = make_batch(16, index)
        with sown_coefficients():
            variables, images = jax.device_get(state.variables), normalize(jnp.asarray(batch["image"]), **PIXELS)
            _, updates = one.apply(variables, images, train=True, mutable=["batch_stats", COLLECTION])
        layers = {name: np.asarray(values) for name, values in named_coefficients(updates[COLLECTION])}
        means = {name: values.mean(axis=0) for name, values in layers.items()}
        running = running or means
        state, metrics = step(state, to_devices(batch, layout))
        expected = by_numpy({"stage1": list(layers.values())}, {"stage1": list(running.values())})
        for name, value in expected.items():
            assert float(metrics[name] / metrics["examples"]) == pytest.approx(value, rel=1e-3), name
        running = {name: KEPT * running[name] + (1 - KEPT) * means[name] for name in means}
        for name, mean in running.items():
            np.testing.assert_allclose(state.coefficients[name], mean, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [True, False])
def test_one_collective_for_all_sums(dynamic):
    """Metrics, the vote and the movement of coefficients travel together; a static network has none of the last."""
    layout = make_layout(16, 2, devices=jax.devices()[:2])
    model = tiny_model(layout, 2) if dynamic else tiny_model(layout, 2).clone(dynamic=None)
    state = make_state(model, layout)
    step = make_train_step(model, OPTIMIZER, layout, classification(), **PIXELS)
    batch = to_devices({**make_batch(16), "stop": np.zeros(2, np.int32)}, layout)
    text = step.lower(state, batch).as_text()
    sums = text.count("stablehlo.all_reduce") - len(jax.tree.leaves((state.params, state.batch_stats)))
    assert sums == 1
    assert bool(state.coefficients) == dynamic


def test_reports_have_them_and_curves_show_them(tiny_config, tmp_path):
    assert loop.train(tiny_config, tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["kind"] == "train"]
    for key in KEYS:
        assert all(of_stages(row, key).keys() == {"stage1"} for row in training)
    first, last = training[0], training[-1]
    assert 0 < first["coefficients/stage1/deviation"] < last["coefficients/stage1/deviation"] < 0.5
    from matplotlib import image

    height, width, _ = image.imread(tmp_path / "curves.png").shape
    assert width > 4 * height  # four panels


def test_dead_coefficients_are_told_once():
    said = []
    dead = DeadCoefficients(10_000, said.append)
    rows = [{"coefficients/stage1/deviation": DEAD / 2, "coefficients/stage2/deviation": DEAD / 3, "loss": 1.0}] * 3
    for step, row in zip((500, 1000, 1500), rows):
        dead.look(step, row)
    (line,) = said
    assert "at step 1000 they deviate by 0.0050 between images" in line
    assert """--config.learning_rate_factors='[["predictor", 100]]'""" in line


@pytest.mark.parametrize(
    ("total", "row"),
    [
        (
            10_000,
            {"coefficients/stage1/deviation": DEAD / 2, "coefficients/stage2/deviation": 2 * DEAD},
        ),  # one stage moves
        (10_000, {"loss": 1.0}),  # a static network
        (EARLY - 1, {"coefficients/stage1/deviation": 0.0}),  # a short run
    ],
)
def test_living_coefficients_are_not(total, row):
    said = []
    dead = DeadCoefficients(total, said.append)
    for step in range(0, total + 1, total // 10):
        dead.look(step, row)
    assert said == []
