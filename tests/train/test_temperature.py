"""A temperature that training changes: the network is trained, evaluated, saved and exported with it."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dynet_jax.config.load import check_config
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.train import loop
from dynet_jax.train.setup import make_run
from tests.train.saved import load_workdir


def temperatures(variables):
    stats = flatten_dict(variables["batch_stats"], sep="/")
    return [float(value) for name, value in stats.items() if name.endswith("/temperature")]


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_it_falls_as_scheduled_and_stays_with_the_checkpoint(tiny_config, tmp_path, ema_decay):
    """It falls from 30 to 1 in 8 of 16 steps; step n + 1 trains at the temperature of n."""
    tiny_config.update({"temperature_from": 30.0, "temperature_epochs": 8 / 22, "ema_decay": ema_decay})
    tiny_config.keep_checkpoints = 10
    assert loop.train(tiny_config, tmp_path) == 0
    for step in (4, 8, 12, 16):
        _, state = load_workdir(tmp_path, step=step)
        wanted = 30 - 29 * min(1, (step - 1) / 8)
        for variables in filter(None, (state.variables, state.averaged_variables)):
            assert temperatures(variables) == pytest.approx([wanted], rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_it(tiny_config, tmp_path, monkeypatch):
    tiny_config.update({"temperature_from": 30.0, "temperature_epochs": 12 / 22})
    assert loop.train(tiny_config, tmp_path / "straight") == 0
    polls = iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopVote, "decided", property(lambda self: next(polls)))
        assert loop.train(tiny_config, tmp_path / "pieces") == loop.INTERRUPTED
    assert loop.train(tiny_config, tmp_path / "pieces") == 0
    straight, pieces = (load_workdir(tmp_path / name)[1] for name in ("straight", "pieces"))
    jax.tree.map(np.testing.assert_array_equal, pieces, straight)


@pytest.mark.slow
def test_a_temperature_divides_the_logits(tiny_config, tmp_path):
    """The annealed network at temperature T computes what the plain one does with its last layer divided by T."""
    tiny_config.update({"temperature_from": 8.0, "temperature_epochs": 1000.0})
    run = make_run(tiny_config, 1438, make_layout(64, 8))
    state = run.fresh_state()
    plain_config = tiny_config.copy_and_resolve_references()
    plain_config.temperature_from = None
    plain = make_run(plain_config, 1438, make_layout(64, 8)).model
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), state.params)
    params, stats = jax.device_get((params, state.batch_stats))
    predictor = stats["stage1_block1"]["predictor"]
    predictor["temperature"] = np.float32(8)
    images = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    annealed = run.model.apply({"params": params, "batch_stats": stats}, images)
    dense = params["stage1_block1"]["predictor"]["coefficients"]
    params["stage1_block1"]["predictor"]["coefficients"] = jax.tree.map(lambda leaf: leaf / 8, dense)
    del stats["stage1_block1"]["predictor"]
    np.testing.assert_allclose(plain.apply({"params": params, "batch_stats": stats}, images), annealed, rtol=1e-4)


def test_mistakes(tiny_config):
    tiny_config.temperature_from = -1.0
    with pytest.raises(UserError, match="temperature_from must be positive"):
        check_config(tiny_config)
    tiny_config.temperature_from = 1.0
    with pytest.raises(UserError, match="temperature_from=1 is also the final temperature of tiny"):
        make_run(tiny_config, 1438, make_layout(64, 8))
    from configs import common

    config = common.recipe("fix_resnet18", "cifar10")
    config.temperature_from = 30.0
    with pytest.raises(UserError, match="fix_resnet18 is static"):
        make_run(config, 50_000, make_layout(128, 64))
