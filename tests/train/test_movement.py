"""The measured movement of coefficients during training, against NumPy, and the places where it is reported."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import DynamicConv
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.ops.pixels import normalize
from dynet_jax.train import loop, movement
from dynet_jax.train.movement import (
    DEAD,
    EARLY,
    KEPT,
    DeadCoefficients,
    by_stage,
    movement_metrics,
    movement_sums,
    of_stages,
)
from dynet_jax.train.state import make_initialiser
from dynet_jax.train.step import make_train_step
from tests.train.tasks import classification
from tests.train.test_step import OPTIMIZER, PIXELS, make_batch, make_state, tiny_model

KEYS = ("deviation", "from_mean", "from_half")


def by_numpy(stages, running):
    """stages: {stage: [images, n]}, running: {stage: [n]}"""
    rows = {}
    for stage, values in stages.items():
        values = values.astype(np.float64)
        rows[f"coefficients/{stage}/deviation"] = np.sqrt(values.var(axis=0).mean())
        rows[f"coefficients/{stage}/from_mean"] = np.sqrt(((values - running[stage]) ** 2).mean())
        rows[f"coefficients/{stage}/from_half"] = np.sqrt(((values - 0.5) ** 2).mean())
    return rows


def flat(layers):
    """[images, coefficients of all layers], layers sorted by name."""
    return np.concatenate([layers[name].reshape(len(layers[name]), -1) for name in sorted(layers)], axis=1)


def test_layers_of_a_stage_are_one_array():
    rng = np.random.default_rng(0)
    names = ("stage1_block2/conv1", "stage1_block1/conv2", "stage1_block1/conv1", "stage10_block1/conv1")
    layers = {name: rng.uniform(size=(3, 2, 4)) for name in names}
    found = by_stage(((name, jnp.asarray(values, jnp.float32)) for name, values in layers.items()), images=3)
    assert found.keys() == {"stage1", "stage10"}
    np.testing.assert_allclose(found["stage1"], flat({name: layers[name] for name in names[:3]}), rtol=1e-6)
    np.testing.assert_allclose(found["stage10"], flat({names[3]: layers[names[3]]}), rtol=1e-6)


class Folded(nn.Module):
    """A user's network, in which each image is cut into four parts for one layer, and three batch axes for another."""

    @nn.compact
    def __call__(self, x, train=False):
        y = DynamicConv(4, (3, 3), group_size=2, name="whole")(x)
        parts = y.reshape(len(x), 2, 6, 2, 6, 4).swapaxes(2, 3)
        parts = DynamicConv(4, (3, 3), group_size=2, name="parts")(parts)
        few = DynamicConv(4, (1, 1), group_size=2, name="few")(y[:1])  # of the first image alone
        return nn.Dense(5)(parts.mean((1, 2, 3, 4)) + few.mean((1, 2)))


@pytest.mark.slow
def test_rows_of_one_image_count_as_their_mean():
    layout = make_layout(8, None, devices=jax.devices()[:2])
    model = Folded()
    state = jax.device_put(make_initialiser(model, OPTIMIZER, image_size=12)(1), layout.replicated)
    assert {stage: mean.shape for stage, mean in state.coefficients.items()} == {
        "few": (8,),
        "parts": (8,),
        "whole": (8,),
    }
    step = make_train_step(model, OPTIMIZER, layout, classification(), **PIXELS)
    batch = make_batch(8)
    images = normalize(jnp.asarray(batch["image"]), **PIXELS)
    with sown_coefficients():
        _, sown = model.apply(jax.device_get(state.variables), images, mutable=[COLLECTION])
    parts = np.asarray(dict(named_coefficients(sown[COLLECTION]))["parts"])
    assert len(parts) == 32
    after, metrics = step(state, to_devices(batch, layout))
    assert after.coefficients.keys() == {"few", "parts", "whole"}
    assert not any("few" in name for name in metrics)  # on a device it has fewer rows than there are images
    wanted = parts.reshape(8, 4, -1).mean(axis=1).std(axis=0)
    assert float(metrics["coefficients/parts/deviation"] / 8) == pytest.approx(np.sqrt((wanted**2).mean()), rel=1e-2)


@pytest.mark.slow
def test_root_mean_squares_by_stage():
    rng = np.random.default_rng(0)
    stages = {
        "stage1": rng.uniform(size=(9, 72)),
        "stage2": 0.9 + 0.001 * rng.uniform(size=(9, 4)),  # far from 0.5, hardly moving
    }
    running = {"stage1": rng.uniform(size=72), "stage2": stages["stage2"].mean(axis=0) + 0.001}
    means = {stage: jnp.asarray(values, jnp.float32) for stage, values in running.items()}
    sums = movement_sums({stage: jnp.asarray(values, jnp.float32) for stage, values in stages.items()}, means)
    metrics, after = movement_metrics(sums, jnp.float32(9), means)
    expected = by_numpy(stages, running)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3), name
    for stage, values in stages.items():
        np.testing.assert_allclose(after[stage], KEPT * running[stage] + (1 - KEPT) * values.mean(axis=0), rtol=1e-5)


def test_a_running_mean_begins_with_the_first_batch():
    values = np.random.default_rng(0).uniform(size=(7, 6))
    zeros = {"conv": jnp.zeros(6)}
    sums = movement_sums({"conv": jnp.asarray(values, jnp.float32)}, zeros)
    metrics, after = movement_metrics(sums, jnp.float32(7), zeros)
    np.testing.assert_allclose(after["conv"], values.mean(axis=0), rtol=1e-5)
    for name, value in by_numpy({"conv": values}, {"conv": values.mean(axis=0)}).items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "accumulation_steps"), [(1, 1), (8, 1), (2, 2)])
def test_a_training_step_measures_the_coefficients_that_it_trains_with(devices, accumulation_steps):
    """They are those of the whole batch, in training, before the update; the running means continue in the state."""
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
        stages = {"stage1": flat({name: np.asarray(v) for name, v in named_coefficients(updates[COLLECTION])})}
        mean = stages["stage1"].mean(axis=0)
        running = mean if running is None else running
        state, metrics = step(state, to_devices(batch, layout))
        expected = by_numpy(stages, {"stage1": running})
        for name, value in expected.items():
            assert float(metrics[name] / metrics["examples"]) == pytest.approx(value, rel=1e-3), name
        running = KEPT * running + (1 - KEPT) * mean
        np.testing.assert_allclose(state.coefficients["stage1"], running, rtol=1e-5)


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


@pytest.mark.slow
def test_reports_have_them_and_curves_show_them(tiny_config, tmp_path):
    assert loop.train(tiny_config, tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["kind"] == "train"]
    for key in KEYS:
        assert all(of_stages(row, key).keys() == {"stage1"} for row in training)
    deviations = [row["coefficients/stage1/deviation"] for row in training]
    assert 0 < np.mean(deviations[:4]) < np.mean(deviations[-4:]) < 0.5
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


def test_nothing_is_said_before_temperatures_have_fallen():
    said = []
    dead = DeadCoefficients(10_000, said.append, annealed_at=4000)
    for step in (1000, 3000, 5000):
        dead.look(step, {"coefficients/stage1/deviation": DEAD / 2 if step < 4000 else 2 * DEAD})
    assert said == []


@pytest.mark.slow
def test_a_run_looks(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(movement, "EARLY", 0)
    monkeypatch.setattr(movement, "DEAD", 1.0)
    assert loop.train(tiny_config, tmp_path) == 0
    assert (
        capsys.readouterr().err.count("WARNING: coefficients hardly depend on the image: at step 2 they deviate") == 1
    )
