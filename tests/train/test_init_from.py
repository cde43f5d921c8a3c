"""Fine-tuning: what is kept, what is initialised, and what is rejected."""

import jax
import numpy as np
import pytest

from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.train import loop
from dynet_jax.train.init_from import initialise_from
from dynet_jax.train.setup import make_run
from tests.train.saved import load_workdir

DIGITS = list(map(str, range(10)))


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A work directory with moving averages."""
    config = tiny_config.copy_and_resolve_references()
    config.epochs, config.ema_decay = 4 / 22, 0.5
    assert loop.train(config, tmp_path / "trained") == 0
    return tmp_path / "trained"


def fresh_run(config, **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return make_run(config, 1438, make_layout(config.batch_size, config.bn_batch_size))


@pytest.mark.slow
def test_everything_but_another_classifier_is_taken_over(tiny_config, trained):
    for names, said in (
        (DIGITS, ""),
        (list(map(str, range(10, 47))), " with new classifier (no class is the same: 10, 11, "),
        ([f"digit {name}" for name in DIGITS], " with new classifier (no class is the same: digit 0, "),
        (DIGITS[::-1], " (its classes by name: 10 of 10 were known, 9, 8, 7, 6, 5 and 5 more)"),
        (["7", "x"], " (its classes by name: 1 of 2 was known, 7; new: x)"),
    ):
        _check_taken_over(tiny_config, trained, names, said)


def _check_taken_over(tiny_config, trained, names, said):
    run = fresh_run(tiny_config, **{"model.num_classes": len(names)})
    state, told = initialise_from(trained, run, names)
    assert told.startswith(said)
    assert bool(told) == bool(said)
    ema, fresh = load_workdir(trained)[1].ema, run.fresh_state().params
    assert int(state.step) == 0
    same = jax.tree.map(np.array_equal, state.params, ema["params"])
    del same["classifier"]
    assert all(jax.tree.leaves(same))
    for output, name in enumerate(names):
        expected, row = (ema["params"], DIGITS.index(name)) if name in DIGITS else (fresh, output)
        for key in ("kernel", "bias"):
            got = state.params["classifier"][key][..., output]
            np.testing.assert_array_equal(got, expected["classifier"][key][..., row])
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.batch_stats, ema["batch_stats"])))
    assert state.params["classifier"]["kernel"].shape[-1] == len(names)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(None, 30.0), (30.0, None), (30.0, 8.0)])
def test_a_temperature_is_the_runs_own(tiny_config, tmp_path, before, after):
    """All else is taken over, the classifier too."""
    config = tiny_config.copy_and_resolve_references()
    config.epochs, config.temperature_from = 4 / 22, before
    assert loop.train(config, tmp_path / "trained") == 0
    state, said = initialise_from(tmp_path / "trained", fresh_run(tiny_config, temperature_from=after), DIGITS)
    assert said == ""
    temperatures = [
        leaf for path, leaf in jax.tree.leaves_with_path(state.batch_stats) if "temperature" in str(path[-1])
    ]
    assert temperatures == ([] if after is None else [1.0])  # where every schedule's variable begins
    before_params = load_workdir(tmp_path / "trained")[1].params
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.params, before_params)))


@pytest.mark.slow
def test_averages_begin_where_the_parameters_do(tiny_config, trained):
    state, _ = initialise_from(trained, fresh_run(tiny_config, ema_decay=0.9), DIGITS)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.ema, state.variables)))


@pytest.mark.slow
def test_another_network_is_refused(tiny_config, trained):
    run = fresh_run(tiny_config.unlock(), **{"model.features": 18})
    with pytest.raises(UserError, match=r"holds another network than tiny: .*/stage1_block1/.* and \d+ more differ"):
        initialise_from(trained, run, DIGITS)


@pytest.mark.slow
def test_a_run_says_where_it_began(tiny_config, trained, tmp_path, capsys):
    tiny_config.init_from, tiny_config.epochs = str(trained), 4 / 22
    assert loop.train(tiny_config, tmp_path / "tuned") == 0
    assert f"starting from {trained}" in capsys.readouterr().out
    tiny_config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a work directory"):
        loop.train(tiny_config, tmp_path / "other")
