import json
import shlex
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from dynet_jax.config.load import flatten
from dynet_jax.errors import UserError
from dynet_jax.models import create_model
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import Plan
from tests.reproduce.fake_runs import finish, make_plan


def test_runs_differ_in_network_and_seed_alone(tmp_path):
    plan = Plan("digits", "small", tmp_path / "out")
    configs = [plan.config(job).to_dict() for arm in plan.arms for job in plan.jobs(arm)]
    assert len(configs) == 17 * 3
    recipes = [{key: value for key, value in config.items() if key not in ("model", "seed")} for config in configs]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert {config["model"]["num_classes"] for config in configs} == {10}
    assert len({job.workdir for arm in plan.arms for job in plan.jobs(arm)}) == 17 * 3


def test_keys_of_the_configuration_are_for_all_arms(tmp_path):
    plan = Plan("digits", "small", tmp_path, overrides=["--config.epochs=3", "--config.batch_size=32"])
    config = plan.config(plan.job(Arm("dy_mobile", 0.25, 6), 2))
    assert (config.epochs, config.batch_size, config.seed, config.model.group_size) == (3.0, 32, 2, 6)
    assert config.eval_every_epochs == 1.0
    assert plan.steps == 3 * (1438 // 32)


@pytest.mark.parametrize(("key", "option"), [("data.name=cifar10", "--dataset"), ("data.data_dir=x", "--data-dir")])
def test_the_dataset_has_options_of_its_own(tmp_path, key, option):
    with pytest.raises(UserError, match=f"is set by {option}"):
        Plan("digits", "small", tmp_path, overrides=[f"--config.{key}"])


@pytest.mark.parametrize("key", ["seed=1", "model.width=0.5", "model.name=resnet18"])
def test_what_arms_differ_in_is_not_overridden(tmp_path, key):
    with pytest.raises(UserError, match="is set by dynet reproduce"):
        Plan("digits", "small", tmp_path, overrides=[f"--config.{key}"])


def test_a_misspelt_key_is_named(tmp_path):
    with pytest.raises(UserError, match="did you mean epochs"):
        Plan("digits", "small", tmp_path, overrides=["--config.epoch=1"])


def test_another_plan_is_kept_out_of_a_folder(tmp_path):
    make_plan(tmp_path / "out")
    make_plan(tmp_path / "out", only=["table4"], seeds=5)  # the same runs, or more of them
    make_plan(tmp_path / "out", overrides=["--config.epochs=3", "--config.data.threads=2"])  # the same in other words
    with pytest.raises(UserError, match=r"holds a plan with epochs=3.0, not 1.0"):
        make_plan(tmp_path / "out", overrides=["--config.epochs=1"])
    with pytest.raises(UserError, match="holds a plan with budget='small', not 'medium'"):
        Plan("digits", "medium", tmp_path / "out").claim()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="is not empty and holds no plan"):
        make_plan(tmp_path)


def test_finished_runs_of_another_recipe_are_not_mixed_in(tmp_path):
    plan = make_plan(tmp_path / "out", only=["table6"])
    finish(plan, lambda arm, seed: 10.0)
    plan.check_runs()
    plan.common.epochs = 7.0
    with pytest.raises(UserError, match=r"was trained with epochs=3.0, which is 7.0 in this version"):
        plan.check_runs()


def test_an_argument_that_was_not_set_differs_from_none(tmp_path):
    plan = make_plan(tmp_path / "out", only=["table6"])
    finish(plan, lambda arm, seed: 10.0)
    plan.budget = plan.budget._replace(for_small_images=True)
    plan.overrides.append("--config.learning_rate_factors=[]")
    with pytest.raises(UserError, match=r"was trained with model.hidden_divisor=4, which is None in this version"):
        plan.check_runs()


def test_a_folder_belongs_to_one_command_at_a_time(tmp_path):
    plan = Plan("digits", "small", tmp_path / "out")
    with plan.claim(), pytest.raises(UserError, match="another dynet reproduce is running in"):
        Plan("digits", "small", tmp_path / "out").claim()
    plan.claim().close()


def test_a_plan_of_before_a_key_was_there_is_the_same(tmp_path):
    make_plan(tmp_path / "out")
    file = tmp_path / "out" / "plan.json"
    kept = json.loads(file.read_text())
    for key in ("optimizer", "weight_decays", "data.cache"):
        kept.pop(key, None)
    file.write_text(json.dumps(kept))
    make_plan(tmp_path / "out")
    file.write_text(json.dumps(kept | {"optimizer": "adamw"}))
    with pytest.raises(UserError, match="holds a plan with optimizer='adamw', not 'sgd'"):
        make_plan(tmp_path / "out")


def test_a_damaged_plan_is_named(tmp_path):
    make_plan(tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text("")
    with pytest.raises(UserError, match=r"plan.json is damaged"):
        make_plan(tmp_path / "out")


def test_the_number_of_cores_of_a_run_stays(tmp_path):
    make_plan(tmp_path / "out").settle("cpu", 2)
    assert make_plan(tmp_path / "out").threads == 2


def test_the_device_of_runs_stays(tmp_path):
    make_plan(tmp_path / "out").settle("cpu", 1)
    with pytest.raises(UserError, match="were trained on a CPU, not an accelerator"):
        make_plan(tmp_path / "out").settle("accelerator", None)


def test_what_a_command_left_that_was_killed_at_once_is_no_obstacle(tmp_path):
    for name in (".lock", "plan.json.tmp"):
        (tmp_path / name).touch()
    make_plan(tmp_path)
    assert (tmp_path / "plan.json").exists()


def test_another_test_set_is_another_plan(tmp_path):
    plan = make_plan(tmp_path / "out", only=["table6"])
    finish(plan, lambda arm, seed: 10.0)
    plan.test_images += 1
    with pytest.raises(UserError, match="holds a plan with test images=359, not 360"):
        plan.check_folder()
    with pytest.raises(UserError, match="was trained with test images=359, which is 360"):
        plan.check_runs()


def test_the_command_can_be_typed(tmp_path):
    plan = Plan("digits", "small", tmp_path / "my photos", data_dir="a b", like="cifar10", seeds=5, only=["table4"])
    with mock.patch("dynet_jax.reproduce.plan.cores", return_value=[0, 1, 2, 3]):
        plan.threads = 2
        words = shlex.split(plan.command)
    assert "--workers=2" in words
    assert words[:2] == ["dynet", "reproduce"]
    assert {
        f"--out={tmp_path / 'my photos'}",
        "--data-dir=a b",
        "--like=cifar10",
        "--seeds=5",
        "--experiments=table4",
    } <= set(words)


def test_no_seed_is_no_plan(tmp_path):
    with pytest.raises(UserError, match="leaves nothing to train"):
        Plan("digits", "small", tmp_path, seeds=0)


def test_a_plan_says_what_it_can_decide(tmp_path):
    """Student's t of 95 % for 3 and 5 values is 4.303 and 2.776; 359 images vary by sqrt(10000 / 359) times as much."""
    for seeds, quantile in ((3, 4.303), (5, 2.776)):
        text = Plan("digits", "small", tmp_path / "out", seeds=seeds).decides
        for family, spread in (("ResNets", 0.6), ("ShuffleNets", 1.6), ("MobileNets", 1.4)):
            least = quantile * spread * (10_000 / 359) ** 0.5 / seeds**0.5
            assert f"{least:.1f} points for {family}" in text
    assert "MobileNets" not in Plan("digits", "small", tmp_path / "out", only=["table6"]).decides
    assert "one seed decides nothing" in Plan("digits", "small", tmp_path / "out", seeds=1).decides


def test_the_medium_budget_alone_changes_the_recipe_for_small_images(tmp_path):
    keys = ("learning_rate_factors", "model.hidden_divisor", "model.normalize_pooled")
    paper = ((), "unset", "unset")

    def values(budget, network, *overrides):
        plan = Plan("digits", budget, tmp_path / "out", networks=[network], overrides=overrides)
        configs = {arm.network: flatten(plan.config(plan.job(arm, 0))) for arm in plan.arms}
        return {name: tuple(config.get(key, "unset") for key in keys) for name, config in configs.items()}

    faster = (("predictor", 25.0),)
    assert values("medium", "dy_resnet18") == {
        "dy_resnet18": (faster, None, "unset"),
        "resnet18": paper,
        "fix_resnet18": paper,
    }
    assert values("medium", "dy_mobile")["dy_mobile"] == ((), "unset", True)
    assert set(values("paper", "dy_resnet18").values()) == {paper}
    given = values("medium", "dy_resnet18", "--config.learning_rate_factors=[]")
    assert given["dy_resnet18"] == ((), None, "unset")


@pytest.mark.parametrize("coefficients", ["condconv", "dy_cnn"])
def test_coefficients_of_others_have_the_same_recipe(tmp_path, coefficients):
    plan = Plan("digits", "medium", tmp_path / "out", only=["table5"])
    (arm,) = (arm for arm in plan.arms if arm.coefficients == coefficients)
    config = plan.config(plan.job(arm, 0))
    assert config.model.normalize_pooled
    model = create_model(**config.model)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    assert any("predictor" in key and "mean" in key for key in flatten_dict(variables["batch_stats"], sep="/"))


def test_networks_have_the_width_of_their_family(tmp_path):
    plan = Plan("digits", "medium", tmp_path / "out", networks=["dy_resnet18", "dy_shuffle", "dy_mobile"])
    widths = {arm.network: arm.width for arm in plan.arms}
    assert widths["dy_resnet18"] == widths["fix_resnet18"] == 0.125
    assert widths["dy_shuffle"] == widths["shufflenet_v2"] == 0.5
    assert widths["dy_mobile"] == widths["fix_mobile"] == 0.25


def test_a_plan_for_cifar10(tmp_path, monkeypatch):
    """The dataset of the medium budget; here it has images of no content, as the plan only counts them."""

    class Images(list):
        class_names = tuple("0123456789")

    monkeypatch.setattr("dynet_jax.reproduce.plan.load_source", lambda *_: Images([None] * 1280))
    plan = Plan("cifar10", "medium", tmp_path / "out", only=["table4"], networks=["dy_resnet18"])
    plan.check()
    assert plan.steps == 120  # 12 epochs of ten batches
    assert (plan.common.data.image_size, plan.common.warmup_epochs) == (32, 2.0)
