"""Every documented name of a configuration is a row of the paper or a network of ours, and can be trained."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import list_models
from dynet_jax.analysis.paper import ROWS
from dynet_jax.analysis.subject import Subject
from dynet_jax.config.load import load_config, override
from dynet_jax.config.network import build_model
from dynet_jax.devices import make_layout
from dynet_jax.train.loop import train
from dynet_jax.workdir.metrics import read_metrics
from tests.documented_configs import CLASSIFICATION, SEGMENTATION

NAMES = (*CLASSIFICATION, *SEGMENTATION)
FILES = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.py") if path.stem != "common")
# Batch, learning rate and type of a recipe, and the shape of its networks' logits at 224x224.
PAPER = (2048, 0.8, "bfloat16"), (1, 1000)
FCN = (8, 0.01, "bfloat16"), (1, 28, 28, 19)
TINY = ["data.name=synthetic", "data.image_size=32", "data.resize_to=32", "data.threads=1"]
TINY += ["batch_size=16", "bn_batch_size=8", "epochs=1", "warmup_epochs=0", "log_every_steps=1"]


def subject(name):
    arguments = load_config(f"configs/{name}.py").model.to_dict()
    return Subject(arguments.pop("name"), arguments).normalized


def test_every_row_of_the_paper_has_a_name():
    subjects = [subject(name) for name in NAMES]
    for row in ROWS:
        assert row.subject._replace(image_size=224) in subjects, row.label
    for name, group_sizes in (("dy_mobile", (1, 2, 4, 6)), ("dy_resnet18", (1, 6))):  # Tables 5 and 6
        for group_size in group_sizes:
            assert Subject(name, {"group_size": group_size}).normalized in subjects
    assert {subject.name for subject in subjects} == set(list_models())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path):
    """It opens with its command, which works."""
    description = path.read_text().split('"""')[1]
    (changes,) = re.search(rf"\n    python train.py --config=configs/{path.name}(.*) --workdir=", description).groups()
    network = changes.partition("--config.model.name=")[2] or None
    assert load_config(str(path), network).model.name == (network or path.stem)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_name(name):
    """Its network can be built. Recipes and variants: tests/config/test_config.py."""
    config = load_config(f"configs/{name}.py")
    recipe, outputs = PAPER if config.task == "classification" else FCN
    assert (config.batch_size, config.learning_rate, config.dtype) == recipe
    model = build_model(config, make_layout(config.batch_size, config.bn_batch_size).bn_axis_name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.shape == outputs


@pytest.mark.slow
def test_one_step(tmp_path, monkeypatch):
    """The documented command, through the whole loop. Steps of all networks: tests/models/test_training.py."""
    monkeypatch.setattr("dynet_jax.data.synthetic.SyntheticSource.__len__", lambda self: 24)
    config = load_config("configs/dy_mobile.py")
    override(config, [f"--config.{assignment}" for assignment in (*TINY, "model.width=0.1")])
    assert train(config, tmp_path) == 0
    (row,) = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert row["step"] == 1
    assert np.log(1000) - 1.5 < row["loss"] < np.log(1000) + 1.5  # before anything is learned
