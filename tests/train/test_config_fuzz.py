"""Configurations that make no sense: each gives one clear line."""

import random

import ml_collections
import pytest

from dynet_jax import cli
from dynet_jax.config.keys import KEYS
from dynet_jax.config.load import flatten
from dynet_jax.errors import UserError
from dynet_jax.train import loop
from tests.train import tiny_run
from tests.train.processes import CONFIG

VALUES = ["", "abc", "-1", "0", "1e400", "nan", "None", "[]", "{}", "true", "3.5", "-0.5", "99999999999999999999"]
VALUES += ["adamw", "wsd", "linear_schedule", '{"a": 1}']
VALUES += ["../../etc", "[1, 2]", '"quoted"', "[null]", "1e-320", "64", "7", "folder:", "folder:/nowhere", "\x00", "ü"]
OBJECTS = [None, "abc", "", -1, 0, 3.5, float("nan"), float("inf"), True, [], [1, 2], {}, {"a": 1}, 10**30, b"x", 7]
MISSPELT = ["--config.bach_size=3", "--config.", "--config", "--confg.seed=1", "seed=1", "--config.data=3"]
MISSPELT += [
    "--config.data.nam=digits",
    "--config.model=tiny",
    "--config.model.depth=3",
    "--workdir",
    "--config.a.b.c=1",
]


class Reached(Exception):
    """The configuration was good enough to begin."""


@pytest.fixture(autouse=True)
def _stop_before_training(monkeypatch):
    def stop(*arguments):
        raise Reached

    monkeypatch.setattr(loop, "Session", stop)


def outcome(arguments, capsys) -> str:
    """'began', or 'refused' after a look at how."""
    try:
        code = cli.train_main(arguments)
    except Reached:
        return "began"
    except SystemExit as leaving:  # argparse
        code = leaving.code
    captured = capsys.readouterr()
    assert code == 2, arguments
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, (arguments, captured.err)
    assert lines[0].startswith("train.py: "), arguments
    assert len(lines[0]) < 1000, arguments
    return "refused"


@pytest.mark.slow
def test_200_command_lines(tmp_path, capsys):
    rng = random.Random(0)
    keys = sorted(
        {*flatten(tiny_run.get_config()), *(key.name for key in KEYS.values() if "classification" in key.defaults)}
    )
    keys += ["optimizer_arguments.nesterov", "optimizer_arguments.b2", "schedule_arguments.end_value"]
    outcomes = {"began": 0, "refused": 0}
    for trial in range(200):
        if trial % 10 == 0:
            wrong = [rng.choice(MISSPELT)]
        else:
            wrong = [f"--config.{rng.choice(keys)}={rng.choice(VALUES)}" for _ in range(rng.choice([1, 1, 2]))]
        outcomes[outcome([f"--config={CONFIG}", f"--workdir={tmp_path / str(trial)}", *wrong], capsys)] += 1
        capsys.readouterr()
    assert outcomes["refused"] > 100, outcomes


@pytest.mark.slow
def test_120_configuration_objects(tmp_path):
    """A user's own file could return them: with values of any type, missing keys and superfluous keys."""
    rng = random.Random(1)
    refused = 0
    for trial in range(120):
        config = tiny_run.get_config().to_dict()
        section = rng.choice([config, config, config["data"], config["model"]])
        key = rng.choice(sorted(section))
        kind = rng.choice(["change", "change", "change", "remove", "add"])
        if kind == "remove":
            del section[key]
        else:
            section[key if kind == "change" else f"{key}_"] = rng.choice(OBJECTS)
        try:
            loop.train(ml_collections.ConfigDict(config, type_safe=False), tmp_path / str(trial))
        except Reached:
            continue
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused > 80
