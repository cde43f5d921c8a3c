"""Requests that are rejected before anything is compiled, and the files of a run that diverges."""

import collections
import shutil

import jax
import numpy as np
import pytest

from dynet_jax.data import load_source, training_batches
from dynet_jax.errors import UserError
from dynet_jax.tasks.task import make_task
from dynet_jax.train import compilation, loop, startup
from dynet_jax.train.divergence import first_bad_step

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def no_compilation(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr(compilation, "make_train_step", refuse)


def test_a_disk_without_room_is_refused(tiny_config, tmp_path, monkeypatch, no_compilation):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 100))
    needs = r"has 100 bytes free, but .* need [\d.]+ [kM]B \([\d.]+ kB each\); make room for [\d.]+ [kM]B more"
    with pytest.raises(UserError, match=rf"{needs}, or use a smaller --config\.keep_checkpoints$"):
        loop.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_has_its_checkpoints_needs_room_for_one(tiny_config, tmp_path, monkeypatch):
    assert loop.train(tiny_config, tmp_path) == 0
    run = startup.start_up(tiny_config, tmp_path).run
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.state_template()))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 2 * one))
    startup.check_space(run, tmp_path)
    with pytest.raises(UserError, match="make room"):
        startup.check_space(run, tmp_path / "new")


@pytest.mark.slow
def test_divergence_names_the_step_and_keeps_its_batch(tiny_config, tmp_path):
    tiny_config.learning_rate = 1e30
    with pytest.raises(UserError) as caught:
        loop.train(tiny_config, tmp_path)
    message = str(caught.value)
    (dump,) = tmp_path.glob("diverged_step*.npz")
    step = int(dump.stem.removeprefix("diverged_step"))
    assert f"at step {step}, at a learning rate of 1e+30, on the training examples " in message
    assert str(dump) in message

    source = load_source("digits", "train")
    batches = training_batches(
        source, make_task(tiny_config).training_transform(), batch_size=64, seed=tiny_config.seed, start_step=step - 1
    )
    batch, saved = next(batches), np.load(dump)
    np.testing.assert_array_equal(saved["image"], batch["image"])
    np.testing.assert_array_equal(saved["label"], batch["label"])
    assert [source[int(index)].label for index in saved["index"]] == list(saved["label"])
    assert ", ".join(map(str, saved["index"][:8])) in message


@pytest.mark.parametrize("key", ["loss", "gradient_norm", "statistics_norm", "parameter_norm"])
def test_the_first_bad_step_of_a_window(key):
    good = {"loss": 1.0, "gradient_norm": 2.0, "statistics_norm": 1.0, "parameter_norm": 3.0}
    window = [good, {**good, key: float("inf")}, {**good, "loss": float("nan")}]
    step, what = first_bad_step(window, last_step=12)
    assert step == 11
    assert what.endswith("is inf")
    assert first_bad_step([good], last_step=12) is None
    assert first_bad_step([], last_step=12) is None
