"""Whole runs: their files, and that a run in pieces is the same as an uninterrupted run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from dynet_jax.config.load import override
from dynet_jax.errors import UserError
from dynet_jax.predict import evaluate_workdir, predict_images
from dynet_jax.train import loop
from dynet_jax.workdir.files import claim, lock, read_config
from dynet_jax.workdir.metrics import read_metrics
from tests.train.saved import load_workdir

ROOT = Path(__file__).parents[2]


def final_state(config, workdir):
    assert loop.train(config, workdir) == 0
    return jax.device_get(load_workdir(workdir)[1])


@pytest.mark.slow
def test_a_run_leaves_everything_a_reader_needs(tiny_config, tmp_path, capsys):
    final_state(tiny_config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 16/16 100.0%" in out
    assert "img/s | ETA 0s" in out
    train, test = (read_metrics(tmp_path / "run/metrics.jsonl", kind) for kind in ("train", "test"))
    assert [row["step"] for row in train] == list(range(1, 17))  # of a short run more than log_every_steps says
    assert [row["step"] for row in test] == [11, 16]
    assert all(np.isfinite(row["loss"]) for row in train + test)
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "run/tensorboard").glob("events*"))
    assert json.loads((tmp_path / "run/labels.json").read_text()) == [str(i) for i in range(10)]

    values = evaluate_workdir(tmp_path / "run")
    assert values["top1"] == pytest.approx(test[-1]["top1"])
    assert values["loss"] == pytest.approx(test[-1]["loss"], rel=1e-5)
    assert (values["examples"], values["step"]) == (359, 16)


@pytest.mark.slow
def test_a_profile_has_the_names_of_the_paper(tiny_config, tmp_path, capsys):
    tiny_config.epochs = 8 / 22
    assert loop.train(tiny_config, tmp_path, profile_steps=2) == 0
    (trace,) = (tmp_path / "tensorboard/plugins/profile").glob("*/*.xplane.pb")
    content = trace.read_bytes()
    for scope in (rb"/predictor/", rb"dynamic_conv_\w+_fusion/fusion/", rb"dynamic_conv_\w+_fusion/convolution/"):
        assert re.search(scope, content)
    printed = capsys.readouterr()
    assert f"profile written to {tmp_path}/tensorboard/plugins/profile" in printed.out
    assert "WARNING" not in printed.err


MODERN = ("mixup=0.2", "cutmix=1", "model.dropout=0.2", "model.stochastic_depth=0.1", "data.trivial_augment=True")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), (*MODERN, "data.random_erasing=0.5")], ids=["paper", "modern"])
def test_resuming_is_bitwise_the_same_run(changes, tiny_config, tmp_path, monkeypatch):
    override(tiny_config, [f"--config.{change}" for change in changes])
    straight = final_state(tiny_config, tmp_path / "straight")

    # A stop between two checkpoints, as SIGTERM asks for it: noticed after step 6.
    polls = iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopVote, "decided", property(lambda self: next(polls)))
        assert loop.train(tiny_config, tmp_path / "pieces") == loop.INTERRUPTED
    assert int(load_workdir(tmp_path / "pieces")[1].step) == 6

    pieces = final_state(tiny_config, tmp_path / "pieces")
    chex.assert_trees_all_equal(pieces, straight)


@pytest.mark.slow
def test_losing_what_came_after_the_last_checkpoint_changes_nothing(tiny_config, tmp_path, monkeypatch):
    """After kill -9, the steps since the checkpoint are repeated with the same result."""
    straight = final_state(tiny_config, tmp_path / "straight")

    save = loop.Checkpoints.save

    def crash(self, state, **arguments):
        if int(state.step) > 8:
            raise RuntimeError("killed")
        save(self, state, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", crash)
        with pytest.raises(RuntimeError, match="killed"):
            loop.train(tiny_config, tmp_path / "killed")
    assert int(load_workdir(tmp_path / "killed")[1].step) == 8
    chex.assert_trees_all_equal(final_state(tiny_config, tmp_path / "killed"), straight)
    assert [row["step"] for row in read_metrics(tmp_path / "killed/metrics.jsonl", "train")] == [*range(1, 17)]


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path, capsys):
    first = final_state(tiny_config, tmp_path)
    chex.assert_trees_all_equal(final_state(tiny_config, tmp_path), first)
    assert "continuing at step 16" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused_and_kept(tiny_config, tmp_path):
    before = final_state(tiny_config, tmp_path)
    other = tiny_config.copy_and_resolve_references().unlock()
    other.model.features = 18
    with pytest.raises(UserError, match=r"was trained with model\.features=12, not 18\. Use another"):
        loop.train(other, tmp_path)
    (tmp_path / "config.json").unlink()  # nothing is left to tell
    with pytest.raises(UserError, match=r"has checkpoints and no config.json, .* put that file back, or use another"):
        loop.train(other, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config.to_dict()))
    chex.assert_trees_all_equal(jax.device_get(load_workdir(tmp_path)[1]), before)


@pytest.mark.slow
def test_a_diverging_run_says_so(tiny_config, tmp_path):
    tiny_config.learning_rate = 1e30
    with pytest.raises(
        UserError, match=r"is (nan|inf) at step \d+, at a learning rate of .*smaller --config.learning_rate"
    ):
        loop.train(tiny_config, tmp_path)


@pytest.mark.slow
def test_predictions_match_the_evaluation(tiny_config, tmp_path):
    """The images of the test set, written as files, are classified as often right as the evaluation says."""
    import cv2

    from dynet_jax.data import load_source

    final_state(tiny_config, tmp_path / "run")
    source = load_source("digits", "test")
    (tmp_path / "images").mkdir()
    for index in range(len(source)):
        cv2.imwrite(str(tmp_path / f"images/{index:03}.png"), source[index].image)
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    predictions = list(predict_images(tmp_path / "run", [tmp_path / "images"]))
    whole = [p for p in predictions if p.error is None]
    assert [p.path.name for p in predictions if p.error] == ["broken.jpg"]
    assert len(whole) == 359
    assert all(len(p.top) == 5 and p.top == sorted(p.top, key=lambda t: -t[1]) for p in whole)
    right = sum(p.top[0][0] == str(source[int(p.path.stem)].label) for p in whole)
    assert right / 359 == pytest.approx(evaluate_workdir(tmp_path / "run")["top1"], abs=1.5 / 359)


@pytest.mark.slow
def test_a_stop_during_evaluation_is_not_lost(tiny_config, tmp_path, monkeypatch):
    straight = final_state(tiny_config, tmp_path / "straight")
    polls = iter([False] * 11 + [True])  # after each of 11 steps, then before the evaluation's first batch
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopVote, "decided", property(lambda self: next(polls)))
        assert loop.train(tiny_config, tmp_path / "pieces") == loop.INTERRUPTED
    assert int(load_workdir(tmp_path / "pieces")[1].step) == 11
    chex.assert_trees_all_equal(final_state(tiny_config, tmp_path / "pieces"), straight)


@pytest.mark.slow
def test_a_diverged_state_is_never_saved(tiny_config, tmp_path):
    """Checkpoints and reports fall on the same step."""
    tiny_config.learning_rate, tiny_config.checkpoint_every_steps, tiny_config.log_every_steps = 1e30, 2, 2
    with pytest.raises(UserError, match=r"the (loss|norm of the \w+) is"):
        loop.train(tiny_config, tmp_path)
    if (tmp_path / "checkpoints").exists():
        state = load_workdir(tmp_path)[1]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("batch_size", 32), ("data.name", "synthetic"), ("model.num_classes", 1000)]
)
def test_another_configuration_does_not_take_a_run_over(tiny_config, tmp_path, key, value):
    claim(tmp_path, tiny_config, ["0", "1"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    other = tiny_config.copy_and_resolve_references()
    other.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"was trained with {key}=.*, not {value!r}. Use another --workdir"):
        claim(tmp_path, other, ["0", "1"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    (tmp_path / "checkpoints/4").rmdir()  # a run that never saved has nothing to lose
    claim(tmp_path, other, ["0", "1"])


def test_a_changed_run_goes_on_when_that_is_allowed(tiny_config, tmp_path, capsys):
    claim(tmp_path, tiny_config, ["0", "1"])
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    tiny_config.data.threads = 3  # changes nothing of what is computed
    claim(tmp_path, tiny_config, ["0", "1"])
    assert "data.threads was 4 and is 3" in capsys.readouterr().out
    tiny_config.epochs, tiny_config.learning_rate = 100.0, 0.01
    with pytest.raises(
        UserError, match=r"with epochs=.*, not 100\.0; learning_rate=.*, not 0\.01\. .*allow_config_change"
    ):
        claim(tmp_path, tiny_config, ["0", "1"])
    claim(tmp_path, tiny_config, ["0", "1"], allow_change=True)
    assert "learning_rate was 0.05 and is 0.01" in capsys.readouterr().out
    with pytest.raises(UserError, match="other classes"):
        claim(tmp_path, tiny_config, ["0", "2"], allow_change=True)


@pytest.mark.slow
def test_clipping_may_be_turned_on_and_a_refused_change_leaves_no_trace(tiny_config, tmp_path):
    tiny_config.epochs = 8 / 22
    assert loop.train(tiny_config, tmp_path) == 0
    before = (tmp_path / "config.json").read_text()
    other = tiny_config.copy_and_resolve_references()
    other.epochs, other.ema_decay = 12 / 22, 0.9
    with pytest.raises(UserError, match=r"of another model: .*ema/batch_stats"):
        loop.train(other, tmp_path, allow_config_change=True)
    assert (tmp_path / "config.json").read_text() == before
    other.ema_decay, other.clip_norm = None, 0.1
    assert loop.train(other, tmp_path, allow_config_change=True) == 0
    assert int(load_workdir(tmp_path)[1].step) == 12
    assert read_config(tmp_path).clip_norm == 0.1


def test_a_data_set_that_has_grown_is_another_configuration(tiny_config, tmp_path, capsys):
    claim(tmp_path, tiny_config, ["0", "1"], {"training images": 100, "test images": 10})
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    claim(tmp_path, tiny_config, ["0", "1"], {"training images": 100, "test images": 11})
    assert "test images was 10 and is 11" in capsys.readouterr().out
    grown = {"training images": 101, "test images": 10}
    with pytest.raises(UserError, match="was trained with training images=100, not 101"):
        claim(tmp_path, tiny_config, ["0", "1"], grown)
    claim(tmp_path, tiny_config, ["0", "1"], grown, allow_change=True)


@pytest.mark.slow
def test_two_runs_do_not_share_a_work_directory(tiny_config, tmp_path):
    tiny_config.epochs = 4 / 22
    with lock(tmp_path), pytest.raises(UserError, match="another run is using"):
        loop.train(tiny_config, tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert loop.train(tiny_config, tmp_path) == 0
    assert loop.train(tiny_config, tmp_path) == 0  # it is free again


@pytest.mark.parametrize("content", ["{}", "[]", "{", "3"])
def test_a_foreign_config_json_is_left_alone(tiny_config, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"is not a configuration of train\.py"):
        claim(tmp_path, tiny_config, ["0", "1"])
    assert (tmp_path / "config.json").read_text() == content


def test_a_work_directory_of_before_a_key_was_there_can_be_used(tiny_config, tmp_path):
    claim(tmp_path, tiny_config, ["0", "1"])
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["ema_decay"], saved["data"]["workers"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path).ema_decay is None
    assert read_config(tmp_path).data.workers == 0
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    claim(tmp_path, tiny_config, ["0", "1"])  # nothing has changed


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tiny_config, tmp_path, capsys):
    final_state(tiny_config, tmp_path)
    for file in (tmp_path / "checkpoints/16").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    _, state = load_workdir(tmp_path)
    assert int(state.step) == 12
    assert "WARNING: the checkpoint" in (err := capsys.readouterr().err)
    assert "16 is damaged" in err


@pytest.mark.slow
def test_make_train_learns_the_digits(tmp_path):
    """`make train`, compiled as on a user's machine, classifies at least 97 % of the test images."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, "train.py", "--config=configs/dy_mobile.py:digits", f"--workdir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert read_metrics(tmp_path / "metrics.jsonl", "test")[-1]["top1"] >= 0.97


@pytest.mark.slow
def test_rates_of_parts_can_be_set_and_removed_when_a_run_goes_on(tiny_config, tmp_path, capsys):
    """The optimiser's state is laid out alike; what takes a rate of its own is said."""
    stopped = tiny_config.copy_and_resolve_references()
    stopped.epochs = 8 / 22
    assert loop.train(stopped, tmp_path) == 0
    for epochs, factors, decays in ((12 / 22, (("predictor", 10.0),), (("head", 0.0),)), (16 / 22, (), ())):
        changed = tiny_config.copy_and_resolve_references()
        changed.update({"epochs": epochs, "learning_rate_factors": factors, "weight_decays": decays})
        capsys.readouterr()
        assert loop.train(changed, tmp_path, allow_config_change=True) == 0
        out = capsys.readouterr().out
        assert ("learning_rate_factors: 10 for 2 arrays, by 'predictor'" in out) == bool(factors)
        assert ("weight_decays: 0 for 1 arrays, by 'head'" in out) == bool(decays)
    assert int(load_workdir(tmp_path)[1].step) == 16


@pytest.mark.parametrize(
    ("key", "pairs", "message"),
    [
        ("learning_rate_factors", (("predictr", 10.0),), "'predictr', which no parameter's name matches"),
        (
            "learning_rate_factors",
            (("kernel", 1.0), ("head/", 2.0)),
            "no parameter takes 2 from 'head/'; earlier patterns",
        ),
        ("weight_decays", (("bias", 0.5),), "no parameter takes 0.5 from 'bias'; what it matches does not decay with"),
    ],
)
def test_a_pattern_without_effect_is_refused(tiny_config, tmp_path, key, pairs, message):
    tiny_config.update({key: pairs})
    with pytest.raises(UserError, match=message):
        loop.train(tiny_config, tmp_path)
