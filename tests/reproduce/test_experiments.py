from copy import copy

import pytest

from dynet_jax.analysis.subject import Subject
from dynet_jax.data import register_dataset, source
from dynet_jax.errors import UserError
from dynet_jax.models import create_model
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.budgets import BUDGETS, base_config, budget_named, dataset_kind
from dynet_jax.reproduce.experiments import OWN, TITLES, experiments
from dynet_jax.reproduce.paper import ERRORS, paper_difference, paper_error


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_every_arm_is_a_network(budget):
    for experiment in experiments(budget).values():
        for arm in experiment.arms:
            create_model(arm.network, **arm.arguments)
        for pair in experiment.pairs:
            assert set(pair) <= set(experiment.arms)


def test_names_of_arms_are_different():
    arms = {arm for experiment in experiments(BUDGETS["paper"]).values() for arm in experiment.arms}
    assert len({arm.name for arm in arms}) == len({arm.title for arm in arms}) == len(arms)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_dynamic_and_fixed_arms_have_equal_convolutions(budget):
    for dynamic, fixed in experiments(budget)["table4"].pairs:
        counts = [Subject(arm.network, arm.arguments, 224).count for arm in (dynamic, fixed)]
        assert counts[0].convolution == counts[1].convolution
        assert counts[0].classifier == counts[1].classifier


@pytest.mark.slow
def test_the_arms_of_a_comparison_of_coefficients_differ_in_predictors_alone():
    own, _, *peers = (first for pair in experiments(BUDGETS["paper"])["table5"].pairs for first in pair)
    _, condconv, _, dy_cnn = peers
    counts = {arm: Subject(arm.network, arm.arguments, 224).count for arm in (own, condconv, dy_cnn)}
    assert len({(count.convolution, count.fusion) for count in counts.values()}) == 1
    assert len({count.predictor for count in counts.values()}) == 3


def test_the_papers_budget_has_the_papers_networks():
    made = experiments(BUDGETS["paper"])
    for key, errors in ERRORS.items():
        found = {(arm.network, arm.group_size) for arm in made[key].arms if paper_error(key, arm) is not None}
        assert found == set(errors)
    dynamic, fixed = made["table4"].pairs[0]
    assert paper_difference("table4", dynamic, fixed) == pytest.approx(-5.30)


def test_some_experiments_alone():
    assert list(experiments(BUDGETS["small"], ["figure5", "table4"])) == ["table4", "figure5"]
    assert list(experiments(BUDGETS["small"])) == list(TITLES)


def test_other_networks_beside_their_bases_and_twins():
    made = experiments(BUDGETS["small"], networks=["dy_mobile", "condconv_resnet18", "resnet18"])
    assert list(made) == [OWN]
    width = BUDGETS["small"].width
    mobile, peer = Arm("dy_mobile", width, 6), Arm("condconv_resnet18", width, 8)
    static = [Arm(name, width) for name in ("mobilenet_v2", "fix_mobile", "resnet18")]
    assert made[OWN].arms == (mobile, *static[:2], peer, static[2])
    assert made[OWN].pairs == ((mobile, static[0]), (mobile, static[1]), (peer, static[2]))
    both = experiments(BUDGETS["small"], ["table4"], ["resnet18"])
    assert (list(both), both[OWN].pairs) == (["table4", OWN], ())
    with pytest.raises(UserError, match="unknown model 'resnet19'; did you mean resnet18"):
        experiments(BUDGETS["small"], networks=["resnet19"])


def test_what_does_not_exist_is_named_with_what_does():
    with pytest.raises(UserError, match="did you mean table4"):
        experiments(BUDGETS["small"], ["tabel4"])
    with pytest.raises(UserError, match="did you mean small"):
        budget_named("smal")
    with pytest.raises(UserError, match="did you mean digits"):
        dataset_kind("digit")


def test_a_dataset_can_have_the_recipe_of_another():
    config = base_config("packed:cifar100", None, BUDGETS["medium"], like="cifar10")
    assert (config.data.name, config.data.image_size, config.epochs) == ("packed:cifar100", 32, 12.0)
    with pytest.raises(UserError, match="no budget has a length for --like=cifar; did you mean cifar10"):
        base_config("packed:cifar100", None, BUDGETS["medium"], like="cifar")


def test_datasets_of_ones_own(monkeypatch):
    monkeypatch.setattr(source, "_DATASETS", copy(source._DATASETS))
    register_dataset("mine:PATH", like="fashion_mnist")(len)
    register_dataset("other")(len)
    register_dataset("none", like=None)(len)
    register_dataset("maps_of_mine", task="segmentation")(len)
    assert base_config("mine:a", None, BUDGETS["medium"]).data.image_size == 32
    assert [dataset_kind(name) for name in ("mine:a", "other", "packed:a")] == ["fashion_mnist", "folder", "folder"]
    for name in ("none", "maps_of_mine", "mine", "synthetic"):
        with pytest.raises(UserError, match=f"need a dataset of labelled images, not '{name}'"):
            dataset_kind(name)
    register_dataset("wrong", like="digit")(len)
    with pytest.raises(UserError, match="wrong is registered with like='digit'; did you mean digits"):
        dataset_kind("wrong")


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar10", "folder:photos", "imagenet2012"])
def test_every_kind_of_dataset_has_a_recipe_before_networks_are_named(dataset, budget):
    config = base_config(dataset, None, BUDGETS[budget])
    assert (config.data.name, config.model.name) == (dataset, "")
    assert config.learning_rate_factors == ()


def test_recipes_have_the_length_of_the_budget():
    config = base_config("folder:photos", None, BUDGETS["small"])
    assert (config.data.name, config.epochs, config.data.image_size) == ("folder:photos", 3.0, 64)
    assert config.warmup_epochs < config.epochs
    assert base_config("imagenet2012", None, BUDGETS["paper"]).epochs == 300
