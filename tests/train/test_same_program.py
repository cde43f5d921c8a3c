"""What a schedule determines is an operand of the training step: other schedules run the same compiled program."""

import jax
import numpy as np
import pytest

from dynet_jax.devices import make_layout, to_devices
from dynet_jax.train.compilation import steps_and_arguments
from dynet_jax.train.setup import Run, make_run
from dynet_jax.train.step import make_train_step


def run_of(config, **changes) -> Run:
    config = config.copy_and_resolve_references()
    config.update(changes)
    return make_run(config, 1438, make_layout(64, 8))


def program(config, **changes) -> str:
    run = run_of(config, **changes)
    (step, arguments), _ = steps_and_arguments(run, run.state_template(), 64, with_votes=False)
    return step.lower(*arguments).as_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 20.0},
        {"learning_rate": 0.01},
        {"warmup_epochs": 0.25},
        {"schedule": "wsd"},
        {"temperature_from": 20.0},
        {"temperature_epochs": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_schedule_has_the_same_program(tiny_config, changes):
    tiny_config.update({"temperature_from": 30.0, "temperature_epochs": 1.0})
    assert program(tiny_config, **changes) == program(tiny_config)


def test_another_optimiser_has_another_program(tiny_config):
    assert program(tiny_config, momentum=0.5) != program(tiny_config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_norm": 0.1, "learning_rate_factors": (("predictor", 25.0),), "weight_decays": (("predictor", 0.1),)},
        {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decays": (("predictor", 0.1),)},
        {"optimizer": "lion", "learning_rate": 1e-3},
    ],
    ids=["sgd", "patterns", "adamw", "lion"],
)
@pytest.mark.slow
def test_the_operand_is_what_the_schedule_says(tiny_config, changes):
    """Three steps of a rising rate, with the rate as an operand and with the schedule inside the optimiser."""
    run = run_of(tiny_config, warmup_epochs=0.25, **changes)
    step = make_train_step(run.model, run.optimizer, run.layout, run.task, **run.pixels)
    states = {"inside": run.fresh_state(), "operand": run.fresh_state()}
    rng, rates = np.random.default_rng(0), []
    for _ in range(3):
        images = rng.integers(0, 256, (64, 16, 16, 3), np.uint8)
        batch = to_devices({"image": images, "label": rng.integers(0, 10, 64).astype(np.int32)}, run.layout)
        rates.append(run.rates(states["operand"].step))
        states["inside"], _ = step(states["inside"], batch)
        states["operand"], _ = step(states["operand"], batch, rates[-1])
    assert [float(rate["learning_rate"]) for rate in rates] == pytest.approx([float(run.schedule(n)) for n in range(3)])
    assert float(rates[2]["learning_rate"]) > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states["operand"], states["inside"]
    )
