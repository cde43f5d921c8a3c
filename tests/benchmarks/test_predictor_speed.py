"""The speed of predictors against small steps along the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import predictor_speed
from configs import common
from dynet_jax.data import training_batch
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.models import registry
from dynet_jax.ops.pixels import normalize
from dynet_jax.train.setup import make_run, open_data
from tests.train.tiny import tiny_network

STEP = 20.0  # coefficients change by 1e-4 then: less would be lost in float32, more would not be straight


@pytest.mark.slow
def test_speeds_are_those_of_a_small_step(monkeypatch):
    info = registry.Registered("tiny", lambda num_classes=10: tiny_network(num_classes, strides=2))
    monkeypatch.setitem(registry._MODELS, "tiny", info)
    config = common.recipe("tiny", "digits").unlock()
    config.model = {"name": "tiny", "num_classes": 10, "zero_init_residual": False}
    config.batch_size, config.bn_batch_size = 16, 8
    source = open_data(config, "train")
    run = make_run(config, len(source), make_layout(16, 8, devices=jax.devices()[:1]))
    batch, _ = training_batch(source, run.task.training_transform(), batch_size=16, seed=0, step=0)
    variables = jax.device_get(run.fresh_state().variables)
    images, labels = normalize(jnp.asarray(batch["image"]), **run.pixels), jnp.asarray(batch["label"])

    def loss(params):
        logits, _ = run.model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(run.task.losses(logits, labels)[0])

    def coefficients(params):
        with sown_coefficients():
            _, updates = run.model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats", COLLECTION]
            )
        return {name: np.asarray(value, np.float64) for name, value in named_coefficients(updates[COLLECTION])}

    params, slope = (
        flatten_dict(variables["params"], sep="/"),
        flatten_dict(jax.grad(loss)(variables["params"]), sep="/"),
    )
    stepped = {k: v - STEP * slope[k] if "predictor" in k else v for k, v in params.items()}
    before, after = coefficients(variables["params"]), coefficients(unflatten_dict(stepped, sep="/"))
    layers = list(before)
    change = np.concatenate([((after[n] - before[n]) / STEP).reshape(16, -1) for n in layers], axis=1)
    size = np.sqrt(np.mean([np.square(before[n]).mean() for n in layers]))
    # Layers of a stage count equally, whatever their size; here all have the same.
    assert len({before[n].shape for n in layers}) == 1
    kernels = [slope[f"{n}/kernels"] for n in layers], [params[f"{n}/kernels"] for n in layers]
    squares = [np.mean([np.square(array).mean() for array in arrays]) for arrays in kernels]

    (stage,) = predictor_speed.relative_speeds(run, jnp.asarray(batch["image"]), labels).items()
    assert stage[0] == "stage1"
    expected = (
        np.sqrt(squares[0] / squares[1]),
        np.sqrt(np.square(change.mean(axis=0)).mean()) / size,
        np.sqrt(np.square(change - change.mean(axis=0)).mean()) / size,
    )
    assert stage[1] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_the_command(capsys):
    arguments = ["configs/dy_resnet18.py:digits", "--config.model.width=0.125", "--config.batch_size=16"]
    assert predictor_speed.main([*arguments, "--config.bn_batch_size=16"]) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["stage1", "stage2", "stage3", "stage4"]
    assert all(0 < float(row[1]) < float(row[2]) for row in rows[2:])
    with pytest.raises(UserError, match="fix_resnet18 is static"):
        predictor_speed.main(["configs/fix_resnet18.py:digits", "--config.batch_size=16", "--config.bn_batch_size=16"])
