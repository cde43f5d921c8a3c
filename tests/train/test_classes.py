"""A network has as many outputs as its data has classes."""

import numpy as np
import pytest

from dynet_jax.config.load import load_config, override, with_open_classes
from dynet_jax.config.network import build_model
from dynet_jax.data.record import ArraySource
from dynet_jax.errors import UserError
from dynet_jax.train.classes import with_classes

NAMES = ["cat", "dog", "fox"]


def source(names):
    return ArraySource(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64), names, "D")


def configured(*changes, recipe="resnet18:imagenette"):
    config = load_config(recipe)
    override(config, with_open_classes([f"--config.{change}" for change in changes]))
    return config


@pytest.mark.parametrize("recipe", ["resnet18:imagenette", "resnet18", "resnet18:digits", "fcn_resnet18"])
def test_another_dataset_brings_its_classes(recipe):
    config = configured("data.name=folder:D", recipe=recipe)
    assert config.model.num_classes is None
    assert with_classes(config, source(NAMES)).model.num_classes == 3
    assert config.model.num_classes is None
    with pytest.raises(UserError, match=r"num_classes=None stands for the classes of a dataset"):
        build_model(config)


def test_a_number_that_is_given_stays():
    assert configured("data.name=folder:D", "model.num_classes=7").model.num_classes == 7
    assert configured("epochs=7").model.num_classes == 10


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_is_refused(count):
    config = configured("data.name=folder:D", f"model.num_classes={count}")
    with pytest.raises(UserError, match=rf"has 3 classes but .* {count}.*; use --config.model.num_classes=3"):
        with_classes(config, source(NAMES))


def test_a_run_with_outputs_to_spare_goes_on(capsys):
    """Earlier versions trained them."""
    for changes in (["data.name=folder:D"], ["data.name=folder:D", "model.num_classes=10"]):
        assert with_classes(configured(*changes), source(NAMES), before=10).model.num_classes == 10
        assert "has 10 outputs for 3 classes; outputs without a class are never right" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"use --config\.model\.num_classes=3"):
        with_classes(configured("data.name=folder:D", "model.num_classes=7"), source(NAMES), before=10)
    assert with_classes(configured("data.name=folder:D"), source(NAMES), before=3).model.num_classes == 3


def test_one_class_is_refused():
    with pytest.raises(UserError, match="folder:D has one class, cat; a classifier needs"):
        with_classes(configured("data.name=folder:D"), source(["cat"]))
