"""Every file in configs/ is a network that takes a step, by its own recipe at tiny size."""

from pathlib import Path

import numpy as np
import pytest

from dynet_jax.train.config import load_config, override
from dynet_jax.train.loop import train
from dynet_jax.train.metrics import read_metrics

CONFIGS = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.py") if path.stem != "common")
TINY = ["data.name=synthetic", "data.image_size=32", "data.resize_to=32", "data.threads=1", "model.width=0.1"]
TINY += ["batch_size=16", "bn_batch_size=8", "epochs=1", "warmup_epochs=0", "log_every_steps=1"]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_step(path, tmp_path, monkeypatch):
    monkeypatch.setattr("dynet_jax.data.source.SyntheticSource.__len__", lambda self: 24)
    config = load_config(str(path))
    override(config, [f"--config.{assignment}" for assignment in TINY])
    assert config.dtype == "bfloat16"
    assert train(config, tmp_path) == 0
    (row,) = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert row["step"] == 1
    assert np.log(1000) - 1.5 < row["loss"] < np.log(1000) + 1.5  # before anything is learned


def test_there_are_configurations():
    assert {"dy_mobile", "fix_mobile", "mobilenet_v2"} <= {path.stem for path in CONFIGS}
