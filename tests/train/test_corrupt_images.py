"""A run on class folders with corrupt images in them, through training, evaluation, and a work directory of before."""

import json

import chex
import jax
import pytest

from dynet_jax.config.load import check_config, override
from dynet_jax.errors import UserError
from dynet_jax.predict import evaluate_workdir
from dynet_jax.train import loop
from dynet_jax.workdir.metrics import read_metrics
from tests.data.images import encoded, textured
from tests.train.saved import load_workdir


@pytest.fixture
def config(tiny_config, tmp_path):
    """Ten classes, 120 training images of which 3 are corrupt, and 20 test images of which 2 are."""
    for number in range(140):
        split = "train" if number < 120 else "val"
        path = tmp_path / "images" / split / f"class{number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = encoded(textured(16, 16, seed=number), "PNG")
        path.write_bytes(content[:100] if number in (7, 50, 119, 125, 139) else content)
    override(tiny_config, [f"--config.data.name=folder:{tmp_path / 'images'}", "--config.epochs=4"])
    return tiny_config


def final_params(workdir):
    return jax.device_get(load_workdir(workdir)[1].params)


@pytest.mark.slow
def test_it_goes_through_and_counts_what_it_evaluated(config, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert loop.train(config, workdir) == 0
    printed = capsys.readouterr()
    assert [row["examples"] for row in read_metrics(workdir / "metrics.jsonl", "test")] == [18] * 4
    assert "| 18 images" in printed.out + printed.err
    for number, line in ((7, "the next image replaces it"), (125, "it is left out of the evaluation")):
        (report,) = (text for text in printed.err.splitlines() if f"/{number}.png is not an image" in text)
        assert line in report  # once, in four epochs and four evaluations
    assert printed.err.count("corrupt image ") == 5

    text = json.loads((workdir / "config.json").read_text())
    for key in ("workers", "cache", "max_corrupt"):  # a work directory of before they were there
        del text["data"][key]
    (workdir / "config.json").write_text(json.dumps(text))
    assert evaluate_workdir(workdir)["examples"] == 18

    override(config, ["--config.data.workers=2", "--config.data.cache=True", "--config.data.max_corrupt=5"])
    assert loop.train(config, tmp_path / "another") == 0
    chex.assert_trees_all_equal(final_params(tmp_path / "another"), final_params(workdir))


@pytest.mark.slow
def test_too_many_are_refused(config, tmp_path):
    override(config, ["--config.data.max_corrupt=2"])
    with pytest.raises(UserError, match=r"\.png is not an image that .*; corrupt images: 3, more than .*=2$"):
        loop.train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_test_set_without_images(config, tmp_path):
    for path in (tmp_path / "images/val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 20 test images can be decoded"):
        loop.train(config, tmp_path / "run")


@pytest.mark.parametrize("key", ["data.workers", "data.max_corrupt"])
def test_ranges(tiny_config, key):
    override(tiny_config, [f"--config.{key}=-1"])
    with pytest.raises(UserError, match=rf"^{key} must be 0 or more, not -1$"):
        check_config(tiny_config)
