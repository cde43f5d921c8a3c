"""Declared keys hold for every file in configs/, in the documentation, on the command line, and in checks."""

from pathlib import Path

import pytest

from configs import common
from dynet_jax.config.keys import KEYS, C, S
from dynet_jax.config.listing import help_text, replaced
from dynet_jax.config.load import check_config, flatten, load_config, override
from dynet_jax.config.recipe import RECIPES, paper_recipe
from dynet_jax.data.augment import CROPS
from dynet_jax.errors import UserError
from dynet_jax.workdir.changes import FIXED, FREE, FREE_IN_EVALUATION
from tests.documented_configs import CLASSIFICATION, SEGMENTATION

ROOT = Path(__file__).parents[2]
CONFIGS = sorted({*CLASSIFICATION, *SEGMENTATION, "paper", "segmentation"})
WITHOUT_RANGE = ("optimizer", "schedule", "optimizer_arguments", "schedule_arguments", "model.name", "data.name")
ANY_FOLDER = ("init_from", "data.data_dir")


def recipe(task):
    return RECIPES[task]("dy_resnet18" if task == C else "fcn_dy_resnet18")


def changed(key, value):
    """The recipe of a task that has the key, with a value as a user's own file could hold it."""
    config = recipe(C if C in key.defaults or not key.defaults else S).unlock()
    *section, name = key.name.split(".")
    place = config[section[0]] if section else config
    with place.ignore_type():
        place[name] = value
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_every_configuration_is_declared(name):
    path = f"configs/{name}.py"
    variants = common.SEGMENTATION_VARIANTS if load_config(path).task == S else common.VARIANTS
    for variant in variants:
        config = load_config(f"{path}:{variant}")
        for name, value in flatten(config).items():
            KEYS[name].check(value)
        assert {name for name, key in KEYS.items() if config.task in key.defaults} <= {*flatten(config), *WITHOUT_RANGE}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_has_help_a_range_and_defaults_within_it(key):
    assert key.help.endswith(".")
    assert key.range or key.name in WITHOUT_RANGE
    for default in key.defaults.values():
        key.check(default)
    if key.example is not None:
        key.check(key.example)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_the_type_is_enforced(key):
    for wrong in (b"bytes", None, {1}):
        if wrong is None and key.none:
            continue
        with pytest.raises(UserError, match=rf"^{key.name} must be "):
            check_config(changed(key, wrong))


OUTSIDE = {int: -2, float: -2.0, str: "nothing", tuple: (-1,)}


@pytest.mark.parametrize("key", [key for key in KEYS.values() if key.type in OUTSIDE], ids=lambda key: key.name)
def test_the_range_is_enforced(key):
    if key.name in (*WITHOUT_RANGE, *ANY_FOLDER):
        return
    with pytest.raises(UserError, match=rf"^{key.name} must be "):
        check_config(changed(key, OUTSIDE[key.type]))


def test_the_document_holds_the_tables():
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == replaced(text), "write them by `python -m dynet_jax.config.listing docs/configuration.md`"
    assert all(f"| `{name}` |" in text for name in KEYS)


def test_help_lists_every_key():
    lines = help_text().splitlines()
    for name, key in KEYS.items():
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"  {name}: "))
        assert lines[at + 1].strip().startswith(key.help[:60].strip())
    assert "  data.image_size: 224 px (classification)" in lines


def test_what_may_change():
    """The list must not change, because runs and scripts rely on it."""
    in_evaluation = {"inference", *(f"data.{key}" for key in ("eval_size", "label_size", "data_dir", "threads"))}
    in_evaluation |= {"data.workers", "data.cache", "data.max_corrupt"}
    assert in_evaluation == FREE_IN_EVALUATION
    on_resume = {"model.remat", "accumulation_steps", "log_every_steps", "eval_every_epochs", "checkpoint_every_steps"}
    assert in_evaluation | on_resume | {"keep_checkpoints", "test images"} == FREE
    assert {*FIXED} == {"batch_size"}


def test_crops_are_those_of_the_data():
    assert all(KEYS["data.crop"].rule.allows(crop) for crop in CROPS)
    assert KEYS["data.crop"].range == " or ".join(", ".join(map(repr, CROPS)).rsplit(", ", 1))


# Arguments of optimisers and schedules


def test_arguments_follow_the_name_wherever_it_stands():
    config = common.recipe("dy_mobile", group_size=6)
    override(config, ["--config.optimizer_arguments.b2=0.95", "--config.optimizer=adamw", "--config.schedule=wsd"])
    assert flatten(config)["optimizer_arguments.b2"] == 0.95
    check_config(config)
    override(config, ["--config.optimizer=adamw"])
    assert config.optimizer_arguments.to_dict() == {"b2": 0.95}
    override(config, ["--config.optimizer=lion"])
    assert config.optimizer_arguments.to_dict() == {}
    override(config, ['--config.schedule_arguments={"decay_fraction": 0.3}'])
    assert config.schedule_arguments.to_dict() == {"decay_fraction": 0.3}


def test_arguments_in_a_file_of_ones_own():
    config = common.recipe("dy_mobile", group_size=6)
    config.optimizer, config.optimizer_arguments = "adamw", {"b2": 0.95, "mu_dtype": "bfloat16"}
    check_config(config)
    assert config.optimizer_arguments.to_dict() == {"b2": 0.95, "mu_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["optimizer=adamw", "momentum=0.5"],
            "momentum=0.5 is only for optimizer='sgd'; 'adamw' has its own arguments",
        ),
        (["optimizer_arguments.momentum=0.5"], "optimizer_arguments.momentum is set by momentum"),
        (["temperature_epochs=5"], "temperature_epochs=5 has no effect without temperature_from; set temp"),
        (["optimizer_arguments.b2=NaN"], "optimizer_arguments.b2 must be finite, not nan"),
    ],
    ids=str,
)
def test_keys_that_do_not_go_together(changes, message):
    config = common.recipe("dy_mobile", group_size=6)
    override(config, [f"--config.{change}" for change in changes])
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("min_hidden_features", "8", "model.min_hidden_features must be int, like 8, not '8'"),
        ("min_hidden_features", 8.0, "model.min_hidden_features must be int, like 8, not 8.0"),
        ("hidden_divisor", True, "model.hidden_divisor must be int, like 4, not True"),
        ("normalize_pooled", "yes", "model.normalize_pooled must be bool, not 'yes'"),
        ("temperature", "hot", "model.temperature must be float, like 1.0, not 'hot'"),
        ("zero_init_residual", 1, "model.zero_init_residual must be bool, not 1"),
        ("dtype", "bfloat16", "the configuration has a key 'model.dtype', which is set by dtype"),
    ],
)
def test_arguments_of_networks_are_checked(key, value, message):
    config = paper_recipe("dy_resnet18", **{key: value})
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(caught.value) == message


def test_an_argument_of_ones_own_network_has_the_type_of_its_default(tiny_config):
    override(tiny_config, ["--config.model.features=24"])
    check_config(tiny_config)
    with pytest.raises(UserError, match=r"^model.features must be int, like 24, not 'many'"):
        override(tiny_config, ["--config.model.features=many"])
    with tiny_config.model.ignore_type():
        tiny_config.model.features = "many"
    with pytest.raises(UserError, match=r"^model.features must be int, like 12, not 'many'"):
        check_config(tiny_config)
