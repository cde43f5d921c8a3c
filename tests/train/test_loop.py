"""Whole runs: what they leave behind, and that a run in pieces is the same as a run in one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from dynet_jax.errors import UserError
from dynet_jax.predict import evaluate_workdir, load_workdir, predict_images
from dynet_jax.train import loop
from dynet_jax.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def final_state(config, workdir):
    assert loop.train(config, workdir) == 0
    return jax.device_get(load_workdir(workdir)[1])


def test_a_run_leaves_everything_a_reader_needs(tiny_config, tmp_path, capsys):
    final_state(tiny_config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 16/16 100.0%" in out
    assert "img/s | ETA 0s" in out
    train, test = (read_metrics(tmp_path / "run/metrics.jsonl", kind) for kind in ("train", "test"))
    assert [row["step"] for row in train] == [4, 8, 12, 16]
    assert [row["step"] for row in test] == [11, 16]
    assert all(np.isfinite(row["loss"]) for row in train + test)
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "run/tensorboard").glob("events*"))
    assert json.loads((tmp_path / "run/labels.json").read_text()) == [str(i) for i in range(10)]

    values = evaluate_workdir(tmp_path / "run")
    assert values["top1"] == pytest.approx(test[-1]["top1"])
    assert values["loss"] == pytest.approx(test[-1]["loss"], rel=1e-5)
    assert (values["examples"], values["step"]) == (359, 16)


def test_resuming_is_bitwise_the_same_run(tiny_config, tmp_path, monkeypatch):
    straight = final_state(tiny_config, tmp_path / "straight")

    # A stop between two checkpoints, as SIGTERM asks for it: noticed after step 6.
    evaluate, polls = loop._Session._evaluate, iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(loop._Interruption, "seen", property(lambda self: next(polls)))
        patch.setattr(loop._Session, "_evaluate", evaluate)
        assert loop.train(tiny_config, tmp_path / "pieces") == loop.INTERRUPTED
    assert int(load_workdir(tmp_path / "pieces")[1].step) == 6

    pieces = final_state(tiny_config, tmp_path / "pieces")
    chex.assert_trees_all_equal(pieces, straight)


def test_losing_what_came_after_the_last_checkpoint_changes_nothing(tiny_config, tmp_path, monkeypatch):
    """As after kill -9: the steps since the checkpoint are done again, and end the same."""
    straight = final_state(tiny_config, tmp_path / "straight")

    def crash(self, step, state, source):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "_evaluate", crash)
        with pytest.raises(RuntimeError, match="killed"):
            loop.train(tiny_config, tmp_path / "killed")
    assert int(load_workdir(tmp_path / "killed")[1].step) == 8
    chex.assert_trees_all_equal(final_state(tiny_config, tmp_path / "killed"), straight)
    assert [row["step"] for row in read_metrics(tmp_path / "killed/metrics.jsonl", "train")] == [4, 8, 12, 16]


def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path, capsys):
    first = final_state(tiny_config, tmp_path)
    chex.assert_trees_all_equal(final_state(tiny_config, tmp_path), first)
    assert "continuing at step 16" in capsys.readouterr().out


def test_a_checkpoint_of_another_model_is_refused_and_kept(tiny_config, tmp_path):
    before = final_state(tiny_config, tmp_path)
    saved_config = (tmp_path / "config.json").read_text()
    other = tiny_config.copy_and_resolve_references().unlock()
    other.model.features = 18
    with pytest.raises(UserError, match=r"of another model: \d+ of \d+ entries differ, first .*use another --workdir"):
        loop.train(other, tmp_path)
    assert (tmp_path / "config.json").read_text() == saved_config
    chex.assert_trees_all_equal(jax.device_get(load_workdir(tmp_path)[1]), before)


def test_a_diverging_run_says_so(tiny_config, tmp_path):
    tiny_config.learning_rate = 1e30
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+.*smaller --config.learning_rate"):
        loop.train(tiny_config, tmp_path)


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
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "train.py", "--config=configs/dy_mobile.py:digits", f"--workdir={tmp_path}"]
    command += ["--config.model.width=0.1", "--config.epochs=2", "--config.log_every_steps=2"]
    command += ["--config.warmup_epochs=1", "--config.bn_batch_size=8"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 4/44"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == loop.INTERRUPTED
    assert "saved; run the same command to go on" in rest

    started = time.time()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stdout
    assert "step 44/44 100.0%" in again.stdout
    assert time.time() - started < 300
