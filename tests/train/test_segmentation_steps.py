"""Segmentation: steps, losses, configurations and what is wrong with them, and how a backbone begins."""

import re

import chex
import cv2
import jax
import numpy as np
import pytest

from dynet_jax.cli import train_main
from dynet_jax.devices import make_layout, to_devices
from dynet_jax.tasks.segmentation import Segmentation
from dynet_jax.train import loop
from dynet_jax.train.setup import make_run
from dynet_jax.train.step import make_train_step
from tests.data.maps import write_maps
from tests.train import tiny_segmentation
from tests.train.saved import load_workdir


@pytest.mark.slow
def test_a_training_step_is_the_same_on_any_number_of_devices(segmentation_config):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": rng.choice([0, 1, 2, 255], (8, 32, 32)).astype(np.uint8),
    }
    results = []
    for devices in (1, 8):
        layout = make_layout(8, 8, devices=jax.devices()[:devices])
        run = make_run(segmentation_config, 16, layout)
        step = make_train_step(run.model, run.optimizer, layout, run.task, **run.pixels)
        state, metrics = step(run.fresh_state(), to_devices(batch, layout))
        results.append(jax.device_get((state.params, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), *results)
    assert results[0][1]["examples"] == 8


@pytest.mark.slow
def test_the_loss_is_a_mean_over_all_pixels(segmentation_config):
    """Ignored pixels give 0, and the second head counts as the configuration says."""
    rng, task = np.random.default_rng(0), Segmentation(segmentation_config)
    logits, second = (rng.normal(size=(2, 6, 5, 3)).astype(np.float32) for _ in range(2))
    labels = rng.choice([0, 1, 2, 255], (2, 6, 5)).astype(np.uint8)

    def mean_loss(logits, image):
        total = 0.0
        for place in np.ndindex(6, 5):
            if labels[image][place] != 255:
                p = np.exp(logits[image][place].astype(np.float64))
                total -= np.log(p[labels[image][place]] / p.sum())
        return total / 30

    losses, sums = task.losses((logits, second), labels)
    expected = [mean_loss(logits, i) + 0.4 * mean_loss(second, i) for i in range(2)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    accuracy = [np.mean((logits[i].argmax(-1) == labels[i])[labels[i] != 255]) for i in range(2)]
    assert sums["pixel_accuracy"] == pytest.approx(sum(accuracy))
    np.testing.assert_allclose(task.losses(logits, labels)[0], [mean_loss(logits, i) for i in range(2)], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.crop_size=[0,32]"], "data.crop_size must be two positive whole numbers, height and width"),
        (["data.scale=[2.0,0.5]"], "data.scale must be two numbers from 0.01 to 100, like"),
        (["data.name=digits"], "digits has one class for each image; a network for segmentation needs one of"),
        (["data.label_size=[20,20]"], "is 64x64, larger than data.label_size; use --config.data.label_size=[64,64]"),
        (["model.num_classes=2"], "has 3 classes but model.num_classes is 2"),
        (["model.num_classes=4"], "and those without a name would lower the mean; use --config.model.num_classes=3"),
        (["model.num_classes=255"], "model.num_classes must be at most 254, not 255"),
        (["data.scale=[0.5,Infinity]"], "data.scale must be two numbers from 0.01 to 100"),
        (["schedule=polly"], "unknown schedule 'polly'; did you mean poly"),
        (["label_smoothing=0.1"], "label_smoothing is for classification, and this configuration for segmentation"),
    ],
    ids=str,
)
def test_mistakes_of_configurations(maps, registered, tmp_path, capfd, changes, message):
    changes = [f"--config.{change}" for change in [f"data.name=maps:{maps[0]}", *changes]]
    config = f"--config={tiny_segmentation.__file__}"
    assert train_main([config, f"--workdir={tmp_path / 'run'}", *changes]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err


def test_networks_are_for_one_task(tmp_path, capfd):
    arguments = ["--config=configs/dy_mobile.py:digits", f"--workdir={tmp_path / 'run'}"]
    assert train_main([*arguments, "--config.model.name=fcn_dy_mobile"]) == 2
    assert "fcn_dy_mobile is a network for segmentation, not for classification" in capfd.readouterr().err


@pytest.mark.slow
def test_labels_of_other_classes_end_a_run_with_one_line(maps, tmp_path, segmentation_config, capfd):
    root = tmp_path / "maps"
    write_maps(root, {"train": [(32, 32)] * 8, "val": [(32, 32)]})
    cv2.imwrite(str(root / "trainannot/003.png"), np.full((32, 32), 9, np.uint8))
    arguments = [f"--config={tiny_segmentation.__file__}", f"--config.data.name=maps:{root}"]
    assert train_main([*arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    err = capfd.readouterr().err
    assert re.fullmatch(
        r"train.py: .*003\.png has pixels of 9, which are neither one of the 3 classes nor ignored.*\n", err
    ), err


@pytest.mark.slow
def test_a_backbone_begins_as_a_classifier(segmentation_config, tmp_path, capsys):
    """All its parameters are the classifier's; the heads are new."""
    from tests.train.tiny_run import get_config

    classifier = get_config().unlock()
    classifier.model = {"name": "tiny", "num_classes": 10}
    classifier.epochs = 2 / 22
    assert loop.train(classifier.lock(), tmp_path / "classifier") == 0
    own = segmentation_config.copy_and_resolve_references().unlock()
    own.init_from, own.learning_rate, own.epochs, own.weight_decay = str(tmp_path / "classifier"), 0.0, 0.5, 0.0
    assert loop.train(own.lock(), tmp_path / "own") == 0
    before, after = (jax.device_get(load_workdir(tmp_path / name)[1].params) for name in ("classifier", "own"))
    kept = {key: value for key, value in before.items() if key not in ("classifier", "head", "head_norm")}
    chex.assert_trees_all_equal(after["backbone"], kept)
    assert {"head", "head_norm", "classifier", "auxiliary_head"} <= after.keys()
    assert "with new auxiliary_classifier, auxiliary_head, auxiliary_head_norm, classifier, head" in (
        said := capsys.readouterr().out
    )
    assert "127.5" in said  # the classifier's mean and std are others
