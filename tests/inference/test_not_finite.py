"""Outputs that are not numbers are an error of the image, and never a percentage."""

import json
from pathlib import Path

import numpy as np
import pytest

from dynet_jax.console import to_json
from dynet_jax.data.preprocessing import ResizedPreprocessing
from dynet_jax.inference.pictures import Ready
from dynet_jax.inference.predictions import classify, segment
from dynet_jax.train.metrics import MetricWriter
from dynet_jax.workdir.metrics import read_metrics

IMAGE = np.zeros((4, 4, 3), np.uint8)
PICTURES = [Ready(Path(name), IMAGE, IMAGE) for name in ("a.png", "b.png")]


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_image_whose_logits_are_not_finite_is_an_error(bad):
    found = list(classify(lambda x: np.array([bad, [0.0, 1.0]]), PICTURES, ["cat", "dog"], 2, padded=False))
    assert "outputs for a.png are not finite: its weights are damaged" in str(found[0].error)
    assert (found[0].top, found[1].error, found[1].top[0][0]) == ([], None, "dog")


def test_a_map_with_one_position_that_is_not_finite_is_an_error():
    maps = np.zeros((1, 2, 2, 3), np.float32)
    maps[0, 1, 1, 2] = np.nan
    (found,) = segment(lambda x: maps, PICTURES[:1], ResizedPreprocessing((4, 4), (0,) * 3, (1,) * 3))
    assert "outputs for a.png are not finite" in str(found.error)
    assert found.classes is None


def test_json_has_no_nan():
    text = to_json({"loss": np.float64("nan"), "rows": [(1.5, float("-inf"))], "name": "NaN"})
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "rows": [[1.5, None]], "name": "NaN"}


def test_metrics_that_are_not_finite_come_back(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, "test", {"loss": float("nan"), "top1": 0.5})
    writer.close()
    json.loads(writer.path.read_text(), parse_constant=pytest.fail)
    (row,) = read_metrics(writer.path, "test")
    assert (np.isnan(row["loss"]), row["top1"]) == (True, 0.5)
