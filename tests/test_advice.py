"""Programs accept the advice in their own messages."""

import re
from unittest import mock

import numpy as np
import pytest

from dynet_jax.arguments import Parser
from dynet_jax.cli import main, train_main
from dynet_jax.config.keys import KEYS
from dynet_jax.config.load import SECTIONS, check_config, load_config, override
from dynet_jax.data.pixel_units import check_units
from dynet_jax.data.record import Record
from dynet_jax.data.segmentation_augment import make_test_transform
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.train.classes import with_classes
from dynet_jax.train.schedule import make_schedule
from dynet_jax.train.setup import count_steps, make_temperature, open_data
from tests.advice import PACKAGE, VALUE, messages

REPOSITORY = PACKAGE.parent
MESSAGES = list(messages())


class Parsed(Exception):
    """An exception that replaces running a command."""


def options_of(command, arguments):
    """The options of a parser's commands, as argparse has them: {command: {option: action}}."""

    def stop(self, *_):
        raise Parsed(self)

    with mock.patch.object(Parser, "parse_known_args", stop), pytest.raises(Parsed) as parsed:
        command(arguments)
    parser = parsed.value.args[0]
    commands = next((action.choices for action in parser._actions if action.dest == "command"), {"train.py": parser})
    return {
        name: {option: action for action in of._actions for option in action.option_strings}
        for name, of in commands.items()
    }


OPTIONS = options_of(main, []) | options_of(train_main, [])
EVERY_OPTION = {option for options in OPTIONS.values() for option in options} | {
    "--opset",  # of `dynet export`, added by its formats
    "--version",  # of a compiler
    "--xla_jf_dump_to",
    "--xla_jf_dump_llo_text",
    "--xla_jf_dump_llo_pass_label_regex",
}


def is_placeholder(value):
    return VALUE in value or "{" in value or value.strip("=") in ("", "VALUE") or value.strip("=").isupper()


@pytest.mark.parametrize("message", [m for m in MESSAGES if m.keys], ids=lambda m: f"{m.file}:{m.line}")
def test_every_key_that_is_named_can_be_set(message):
    for key, value in message.keys:
        assert VALUE in key or key in (*KEYS, "data") or key.partition(".")[0] in SECTIONS, message
        if key in KEYS and not is_placeholder(value):
            KEYS[key].check(KEYS[key].parse(value.removeprefix("=").strip("'.\"")))


@pytest.mark.parametrize("message", [m for m in MESSAGES if m.options], ids=lambda m: f"{m.file}:{m.line}")
def test_every_option_that_is_named_is_one(message):
    assert {f"--{name}" for name, _ in message.options} <= EVERY_OPTION, message


@pytest.mark.parametrize("message", [m for m in MESSAGES if m.commands], ids=lambda m: f"{m.file}:{m.line}")
def test_every_command_that_is_named_takes_its_options(message):
    for command, options in message.commands:
        assert command in OPTIONS, message
        for name, value in options:
            assert f"--{name}" in OPTIONS[command] or (command, name) == ("export", "opset"), (command, message)
            action = OPTIONS[command].get(f"--{name}")
            if action is not None and not is_placeholder(value) and action.choices is not None:
                assert value.removeprefix("=") in action.choices, message


def _steps(config, images):
    count_steps(config, images, make_layout(config.batch_size, config.bn_batch_size).mesh.size)


def _label(config):
    record = Record(np.zeros((9, 5, 3), np.uint8), np.zeros((9, 5), np.uint8), "a.png")
    make_test_transform((4, 4), config.data.label_size)(record)


# How a message comes about: the file it is in, a configuration, what is wrong with it, and what says so.
TRIED = {
    "config/relations.py": ("resnet18:digits", ["optimizer=adamw", "momentum=0.8"], check_config),
    "data/pixel_units.py": (
        "resnet18",
        ["data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"],
        lambda config: check_units(config.data.mean, config.data.std),
    ),
    "data/segmentation_augment.py": ("fcn_resnet18", ["data.label_size=[4,6]"], _label),
    "train/setup.py": ("dy_resnet18", ["temperature_from=1"], lambda config: make_temperature(config, 10)),
    "train/setup.py, DY-CNN": ("dy_cnn_resnet18", ["temperature_from=30"], lambda config: make_temperature(config, 10)),
    "train/classes.py": (
        "resnet18",
        ["data.name=synthetic", "model.num_classes=3"],
        lambda config: with_classes(config, open_data(config, "train")),
    ),
    "train/setup.py, steps": ("resnet18", [], lambda config: _steps(config, 150)),
    "train/setup.py, few": ("resnet18", [], lambda config: _steps(config, 20)),
}
TRIED_ELSEWHERE = {
    "config/load.py": "tests/config/test_literals.py tests/train/test_classes.py",
    "cli/summary.py": "tests/test_cli.py",
    "data/corrupt.py": "tests/train/test_corrupt_images.py",
    "data/map_inspection.py": "tests/data/test_map_inspection.py",
    "data/fashion_mnist.py": "tests/data/test_source.py",
    "data/prepare.py": "tests/data/test_packed.py",
    "evaluation/held_coefficients.py": "tests/train/test_segmentation.py",
    "reproduce/plan.py": "tests/reproduce/test_command.py",
    "compiled/steps.py": "tests/test_tpu.py",
    "train/alike.py": "tests/train/test_alike.py",
    "train/by_name.py": "tests/train/test_optimizers_by_name.py",
    "train/divergence.py": "tests/train/test_loop.py",
    "train/less_memory.py": "tests/train/test_less_memory.py",
    "train/movement.py": "tests/train/test_movement.py",
    "train/startup.py": "tests/train/test_startup.py",
    "workdir/changes.py": "tests/train/test_changes.py",
}


@pytest.mark.parametrize("name", TRIED)
def test_advice_is_accepted(name):
    network, wrong, check = TRIED[name]
    config = load_config(network)
    override(config, [f"--config.{change}" for change in wrong])
    with pytest.raises(UserError) as error:
        check(config)
    options = [word.rstrip(";,.") for word in str(error.value).split() if word.startswith("--config.")]
    assert options, str(error.value)
    override(config, options)
    if name != "config/relations.py":  # which names an example of an argument, not what is to be left out
        check(config)


def test_every_message_with_a_key_is_tried():
    """A new message must be added to TRIED, or to the test that covers it."""
    tried = {name.partition(",")[0] for name in TRIED} | TRIED_ELSEWHERE.keys()
    new = {m.file for m in MESSAGES if m.keys and any(text for key, text in m.keys)} - tried
    assert {file for file in new if not file.startswith("cli/")} == set()


@pytest.mark.parametrize("file", TRIED_ELSEWHERE)
def test_what_is_tried_elsewhere_is_named_there(file):
    tests = "".join((REPOSITORY / test).read_text() for test in TRIED_ELSEWHERE[file].split())
    keys = {key.rpartition(".")[2] for message in MESSAGES if message.file == file for key, _ in message.keys}
    assert keys
    assert {key for key in keys if VALUE not in key and not re.search(rf"\b{key}\b", tests)} == set()


def test_arguments_of_functions_are_found_where_they_are_advised():
    """The line says that an argument is needed; with it, the function is made."""
    with pytest.raises(UserError, match=r"needs --config.schedule_arguments.end_value=VALUE"):
        make_schedule(0.1, 0, 10, name="linear_schedule", arguments={})
    make_schedule(0.1, 0, 10, name="linear_schedule", arguments={"end_value": 0.0})
