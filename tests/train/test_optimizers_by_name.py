"""Optimisers and schedules of optax by name: against optax itself, or a formula, and through a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from dynet_jax import cli
from dynet_jax.config.load import override
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.train.optim import OPTIMIZERS, make_optimizer
from dynet_jax.train.schedule import SCHEDULES, make_schedule
from dynet_jax.train.setup import make_run
from dynet_jax.train.startup import check_rates
from dynet_jax.workdir.files import read_config
from dynet_jax.workdir.integrity import named_leaves
from dynet_jax.workdir.metrics import read_metrics
from tests.train.processes import CONFIG

SHAPES = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "predictor": {"kernel": (4, 5), "bias": (5,)}}
# They need the value of the loss, or a learning rate that does not change.
NOT_OURS = ("lbfgs", "optimistic_adam", "rprop", "sm3")
NEEDED = {
    "exponential_decay": {"decay_rate": 0.1},
    "warmup_exponential_decay_schedule": {"decay_rate": 0.1},
    "linear_schedule": {"end_value": 0.0},
    "polynomial_schedule": {"end_value": 0.0, "power": 2},
    "piecewise_constant_schedule": {"boundaries_and_scales": {"50": 0.1}},
    "piecewise_interpolate_schedule": {"interpolate_type": "linear", "boundaries_and_scales": {"50": 0.1}},
}


def drawn(seed):
    rng = np.random.default_rng(seed)
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), SHAPES, is_leaf=is_shape)


def trained(optimizer, steps=3):
    params, state = drawn(0), optimizer.init(drawn(0))
    for step in range(steps):
        updates, state = jax.jit(optimizer.update)(drawn(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(trees, wanted, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-6})), trees, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in NOT_OURS])
@pytest.mark.filterwarnings("ignore:Specifying a key")
def test_an_optimiser_is_optaxs(name):
    """It has its own decay if optax's has one, otherwise the decay is added to the gradient."""
    schedule = make_schedule(0.1, 0, 100)
    options = {"weight_decay": 0.3, "decay_parameters": "all"}
    own = {"adafactor": "weight_decay_rate"}.get(name, "weight_decay")
    if own in OPTIMIZERS[name].__code__.co_varnames:
        wanted = getattr(optax, name)(schedule, **{own: 0.3})
    else:
        wanted = optax.chain(optax.add_decayed_weights(0.3), getattr(optax, name)(schedule))
    assert_close(trained(make_optimizer(schedule, name, **options)), trained(wanted), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NOT_OURS)
def test_an_optimiser_that_needs_something_else(name):
    with pytest.raises(UserError, match=f"^optimizer '{name}' cannot be used like this: "):
        make_optimizer(make_schedule(0.1, 0, 10), name, weight_decay=0.0, decay_parameters="all")


def test_adamw_with_decays_and_rates_by_name():
    """Adam's update, and a decay beside it that the moments do not see: w -= factor rate (m / sqrt(v) + decay w)."""
    rate, b1, b2, eps = 0.1, 0.8, 0.95, 1e-8
    optimizer = make_optimizer(
        optax.constant_schedule(rate),
        "adamw",
        {"b1": b1, "b2": b2},
        weight_decay=0.05,
        decay_parameters="kernels",
        weight_decays=[["predictor", 0.4]],
        learning_rate_factors=[["predictor/bias", 3.0]],
    )
    result = trained(optimizer)
    for layer, names in SHAPES.items():
        for name in names:
            decay = {"conv": 0.05, "predictor": 0.4}[layer] if name == "kernel" else 0.0
            factor = 3.0 if (layer, name) == ("predictor", "bias") else 1.0
            w, m, v = drawn(0)[layer][name].astype(float), 0.0, 0.0
            for step in (1, 2, 3):
                gradient = drawn(step)[layer][name].astype(float)
                m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
                adam = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps)
                w = w - factor * rate * (adam + decay * w)
            np.testing.assert_allclose(result[layer][name], w, rtol=1e-4, atol=1e-5, err_msg=f"{layer}/{name}")


@pytest.mark.parametrize("name", ["adam", "lamb", "lion"])
def test_decays_by_name_are_those_of_single_optimisers(name):
    """Parameters that share no pattern are trained as if each had an optimiser with its decay alone."""
    make = lambda decay, patterns=(): make_optimizer(  # noqa: E731
        make_schedule(0.1, 0, 10), name, weight_decay=decay, decay_parameters="all", weight_decays=patterns
    )
    both = trained(make(0.1, [("predictor", 0.5)]))
    assert_close(both["conv"], trained(make(0.1))["conv"])
    assert_close(both["predictor"], trained(make(0.5))["predictor"])


def test_sgd_keeps_the_state_of_earlier_versions():
    optimizer = make_optimizer(
        make_schedule(0.1, 0, 10), "sgd", {"momentum": 0.9}, weight_decay=0.1, decay_parameters="kernels"
    )
    names = [f"2/0/trace/{layer}/{name}" for layer in SHAPES for name in SHAPES[layer]]
    assert sorted(named_leaves(optimizer.init(drawn(0)))) == sorted([*names, "2/1/count"])


# Schedules


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [10, 0])
def test_a_schedule_of_optax(name, warmup):
    if "onecycle" in name and warmup:
        with pytest.raises(UserError, match=f"^schedule '{name}' rises by itself; set warmup_epochs=0"):
            make_schedule(0.8, warmup, 110, name=name)
        return
    schedule = make_schedule(0.8, warmup, 110, name=name, arguments=NEEDED.get(name))
    rates = np.array([float(schedule(step)) for step in range(111)])
    if warmup:
        np.testing.assert_allclose(rates[: warmup + 1], 0.08 * np.arange(warmup + 1), rtol=1e-5)
    if name != "warmup_constant_schedule" or warmup:  # which optax makes 0 throughout
        assert max(rates) == pytest.approx(0.8, rel=1e-3)
        assert rates[-1] < 0.1 or "constant" in name
    assert min(rates) >= 0


def test_a_schedule_follows_the_warm_up():
    """Its steps are those that are left."""
    schedule = make_schedule(0.5, 10, 110, name="exponential_decay", arguments={"decay_rate": 0.1})
    for step in (10, 35, 60, 110):
        assert float(schedule(step)) == pytest.approx(0.5 * 0.1 ** ((step - 10) / 100), rel=1e-5)
    shorter = {"decay_rate": 0.1, "transition_steps": 50}
    schedule = make_schedule(0.5, 10, 110, name="exponential_decay", arguments=shorter)
    assert float(schedule(60)) == pytest.approx(0.05, rel=1e-5)
    steps = make_schedule(
        0.5, 10, 110, name="piecewise_constant_schedule", arguments=NEEDED["piecewise_constant_schedule"]
    )
    assert [float(steps(step)) for step in (5, 59, 61)] == pytest.approx([0.25, 0.5, 0.05])


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_warm_up_stable_decay(fraction):
    schedule = make_schedule(0.3, 20, 120, name="wsd", arguments={"decay_fraction": fraction, "end_value": 0.1})
    begin = 120 - 100 * fraction
    for step in range(125):
        expected = 0.3 * step / 20 if step < 20 else 0.3
        if step > begin:
            expected = max(0.1, 0.3 - 0.2 * (step - begin) / (100 * fraction))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6), step


# Through a configuration


def run_of(*changes):
    config = common.recipe("fix_mobile", "digits")
    override(config, [f"--config.{change}" for change in changes])
    return make_run(config, 1438, make_layout(64, None, devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimizer=adamv"], "unknown optimizer 'adamv'; did you mean adam"),
        (["schedule=cosin"], "unknown schedule 'cosin'; did you mean cosine"),
        (["optimizer=adamw", "optimizer_arguments.b3=0.9"], "optimizer 'adamw' has no argument 'b3'; did you mean b"),
        (
            ["optimizer=adamw", "optimizer_arguments.b2=many"],
            "optimizer_arguments.b2 must be float, like 0.999, not 'm",
        ),
        (
            ["optimizer=adamw", "optimizer_arguments.nesterov=1"],
            "optimizer_arguments.nesterov must be bool, like False",
        ),
        (
            ["optimizer=adamw", "optimizer_arguments.mu_dtype=x"],
            "optimizer 'adamw' cannot be used like this: TypeError",
        ),
        (
            ["optimizer=adamw", "optimizer_arguments.weight_decay=0.1"],
            "optimizer_arguments.weight_decay is set by weight",
        ),
        (["optimizer_arguments.learning_rate=1"], "optimizer_arguments.learning_rate is set by learning_rate and sch"),
        (
            ["schedule=wsd", "schedule_arguments.decay_fraction=2"],
            "schedule_arguments.decay_fraction must be in (0, 1]",
        ),
        (["schedule=wsd", "schedule_arguments.init_value=2"], "schedule_arguments.init_value is set by learning_rate"),
        (["schedule=exponential_decay"], "schedule 'exponential_decay' needs --config.schedule_arguments.decay_rate="),
        (
            ["schedule=linear_schedule", "schedule_arguments.end_value=-1"],
            "schedule 'linear_schedule' gives a learning r",
        ),
        (
            ["schedule=warmup_constant_schedule", "warmup_epochs=0"],
            "schedule 'warmup_constant_schedule' gives only learn",
        ),
        (["schedule=join_schedules"], "unknown schedule 'join_schedules'"),
    ],
    ids=str,
)
def test_mistakes(changes, message):
    with pytest.raises(UserError) as caught:
        check_rates(run_of(*changes))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_another_optimiser_and_schedule_touch_no_file():
    run = run_of(
        "optimizer=lion", "optimizer_arguments.b1=0.95", "schedule=linear_schedule", "schedule_arguments.end_value=0"
    )
    epoch, total = run.steps_per_epoch, run.total_steps
    assert float(run.schedule(2 * epoch)) == pytest.approx(0.05)
    assert float(run.schedule((2 * epoch + total) // 2)) == pytest.approx(0.025, rel=1e-2)
    leaf = {"kernel": jnp.ones((2, 2))}
    updates, _ = run.optimizer.update(leaf, run.optimizer.init(leaf), leaf)
    np.testing.assert_array_equal(updates["kernel"], jnp.zeros((2, 2)))  # the first step of the warm-up


def train(workdir, capfd, *changes):
    code = cli.train_main([f"--config={CONFIG}", f"--workdir={workdir}", *changes])
    return code, capfd.readouterr()


@pytest.mark.slow
def test_adamw_with_warm_up_stable_decay_trains(tmp_path, capfd):
    """It trains on digits from the command line, and resumes with changed reports but not with another optimiser."""
    adamw = ["--config.optimizer=adamw", "--config.optimizer_arguments.b2=0.95", "--config.weight_decay=0.05"]
    adamw += ["--config.schedule=wsd", "--config.schedule_arguments.decay_fraction=0.5", "--config.learning_rate=0.01"]
    adamw += ["--config.warmup_epochs=0.2", '--config.weight_decays=[["predictor", 0.0]]']
    code, _ = train(tmp_path, capfd, *adamw)
    assert code == 0
    rows = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    rates = {row["step"]: row["learning_rate"] for row in rows}
    assert max(rates.values()) == pytest.approx(0.01)
    assert rates[40] < 0.001
    config = read_config(tmp_path)
    assert (config.optimizer, config.optimizer_arguments.to_dict()) == ("adamw", {"b2": 0.95})

    longer = "--config.epochs=2.0"
    code, said = train(tmp_path, capfd, longer, "--allow_config_change", *adamw)
    assert code == 0, said.err
    assert "continuing at step 40" in said.out
    code, said = train(tmp_path, capfd, longer)
    assert code == 2
    assert "was trained with" in said.err
    assert "optimizer='adamw', not 'sgd'" in said.err
    code, said = train(tmp_path, capfd, "--config.epochs=3.0", "--allow_config_change")
    assert code == 2
    assert "is of another optimiser: " in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_work_directory_of_before_optimisers_had_names(tmp_path):
    saved = common.recipe("dy_mobile", "digits", group_size=6).to_dict()
    del saved["optimizer"], saved["optimizer_arguments"], saved["schedule_arguments"]
    saved["temperature_epochs"] = 5.0  # without temperature_from it meant nothing
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = read_config(tmp_path)
    assert (config.optimizer, config.momentum, config.schedule, config.temperature_epochs) == (
        "sgd",
        0.9,
        "cosine",
        10.0,
    )
