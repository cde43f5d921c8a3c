"""Segmentation from folders of class maps to mIoU, in whole runs."""

import json
import re
import signal

import chex
import cv2
import jax
import numpy as np
import pytest

from dynet_jax.cli import main
from dynet_jax.data.augment import resize
from dynet_jax.data.decode import decode
from dynet_jax.devices import make_layout
from dynet_jax.evaluation.evaluate import evaluate
from dynet_jax.evaluation.step import make_eval_step
from dynet_jax.ops.pixels import normalize
from dynet_jax.ops.segmentation import resize_maps
from dynet_jax.predict import evaluate_workdir
from dynet_jax.tasks.segmentation import Segmentation
from dynet_jax.train import loop
from dynet_jax.train.setup import make_run, open_data
from dynet_jax.workdir.metrics import read_metrics
from tests.data.maps import CLASSES, IGNORED, write_maps
from tests.train import tiny_segmentation
from tests.train.processes import two_hosts
from tests.train.saved import load_workdir


@pytest.fixture(scope="module")
def trained(maps, registered, tmp_path_factory):
    """The work directory of a run to its end, on 8 devices."""
    config, workdir = tiny_segmentation.get_config().unlock(), tmp_path_factory.mktemp("trained") / "run"
    config.data.name = f"maps:{maps[0]}"
    assert loop.train(config.lock(), workdir) == 0
    return workdir


def plain_iou(pairs) -> dict[int, float]:
    """Returns the IoU of [(predicted, labels), ...], class by class, with pixel sets as booleans."""
    iou = {}
    for index in range(len(CLASSES)):
        both = sum(np.sum((p == index) & (y == index)) for p, y in pairs)
        either = sum(np.sum(((p == index) & (y != IGNORED)) | (y == index)) for p, y in pairs)
        if either:
            iou[index] = both / either
    return iou


@pytest.mark.slow
def test_it_learns(trained):
    train, test = (read_metrics(trained / "metrics.jsonl", kind) for kind in ("train", "test"))
    assert [row["step"] for row in test] == [6, 12]
    first, last = (
        {key: np.mean([row[key] for row in rows]) for key in ("loss", "pixel_accuracy")}
        for rows in (train[:4], train[-4:])
    )
    assert last["loss"] < 0.7 * first["loss"]
    assert last["pixel_accuracy"] > 0.6
    assert json.loads((trained / "labels.json").read_text()) == CLASSES
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    events = b"".join(path.read_bytes() for path in (trained / "tensorboard").glob("events*"))
    assert b"test/miou" in events
    assert b"\x89PNG" in events  # pictures of test images


@pytest.mark.slow
def test_miou_is_numpys_on_the_predictions_that_are_written(trained, maps, tmp_path, capfd):
    """`dynet predict` enlarges by OpenCV on the host, evaluation on the device: the same pixels, except for ties."""
    root, scenes = maps
    assert main(["predict", str(trained), str(root / "val"), f"--out={tmp_path / 'out'}"]) == 0
    pairs = []
    for index, (image, labels) in enumerate(scenes["val"]):
        predicted = cv2.imread(str(tmp_path / "out" / f"{index:03}.labels.png"), cv2.IMREAD_UNCHANGED)
        assert predicted.shape == labels.shape
        picture = decode((tmp_path / "out" / f"{index:03}.overlay.png").read_bytes())
        assert picture.shape[1] == image.shape[1] + 130
        pairs.append((predicted, labels))
    expected = plain_iou(pairs)
    values = evaluate_workdir(trained)
    for index, value in expected.items():
        assert values[f"iou/{index}"] == pytest.approx(value, abs=2e-3)
    assert values["miou"] == pytest.approx(np.mean(list(expected.values())), abs=2e-3)
    counted = sum(np.sum(labels != IGNORED) for _, labels in scenes["val"])
    assert np.sum(values["confusion"]) == counted  # every pixel once
    right = sum(np.sum((p == y) & (y != IGNORED)) for p, y in pairs)
    assert values["pixel_accuracy"] == pytest.approx(right / counted, abs=2e-3)
    assert values["examples"] == len(scenes["val"])
    assert "%  " in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["whole", "slide"])
def test_pixels_are_counted_exactly(trained, maps, inference):
    """The same predictions, counted by numpy: every number of the matrix, and mIoU with it."""
    run, state = load_workdir(trained, devices=jax.devices()[:1])
    task = Segmentation(run.config.copy_and_resolve_references().unlock())
    task.config.inference = inference
    variables = jax.device_get(state.averaged_variables)
    pairs, expected = [], np.zeros((3, 3), np.int64)
    for image, labels in maps[1]["val"]:
        pixels = normalize(resize(image, *task.config.data.eval_size)[None], **run.pixels)
        logits = task.logits(lambda images: run.model.apply(variables, images, train=False), pixels)
        predicted = np.asarray(resize_maps(logits, labels.shape)[0]).argmax(axis=-1)
        counted = labels != IGNORED
        np.add.at(expected, (labels[counted], predicted[counted]), 1)
        pairs.append((predicted, labels))
    values = evaluate_workdir(trained, changes=[f"--config.inference={inference}"])
    near_ties = np.abs(np.asarray(values["confusion"]) - expected).sum()
    assert near_ties <= 4  # the order of float32 sums in another program: of 18,000 pixels
    iou = plain_iou(pairs)
    assert values["miou"] == pytest.approx(np.mean(list(iou.values())), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["whole", "slide"])
def test_any_number_of_devices_counts_the_same_pixels(trained, inference):
    run, state = load_workdir(trained)
    config = run.config.copy_and_resolve_references().unlock()
    config.inference = inference
    source, values = open_data(config, "test"), []
    for devices in (1, 8):
        layout = make_layout(8, None, devices=jax.devices()[:devices])
        other = make_run(config, 16, layout)
        step = make_eval_step(other.model, layout, other.task, **other.pixels)
        values.append(evaluate(other, step, jax.device_get(state.averaged_variables), source))
    assert values[0]["confusion"] == values[1]["confusion"]
    assert values[0]["loss"] == pytest.approx(values[1]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["whole", "slide"])
def test_half_coefficients_are_those_of_predictors_without_weights(trained, inference):
    """A sigmoid of 0, in whole images and in windows."""
    changes = [f"--config.inference={inference}"]
    run, state = load_workdir(trained)
    half = evaluate_workdir(trained, changes=changes, coefficients="half")
    variables = jax.device_get(state.averaged_variables)
    variables["params"] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "predictor" in jax.tree_util.keystr(path) else leaf, variables["params"]
    )
    config = run.config.copy_and_resolve_references().unlock()
    config.inference = inference
    other = make_run(config, 16, run.layout)
    step = make_eval_step(other.model, run.layout, other.task, **other.pixels)
    wanted = evaluate(other, step, variables, open_data(config, "test"))
    assert half["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert half["loss"] != evaluate_workdir(trained, changes=changes)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "shuffled"])
def test_coefficients_of_whole_images_are_none_of_windows(trained, how, capfd):
    assert evaluate_workdir(trained, coefficients=how)["loss"] > 0
    assert main(["evaluate", str(trained), f"--coefficients={how}", "--config.inference=slide"]) == 2
    said = f"dynet: {how} coefficients are of whole images, not of windows; use --config.inference=whole\n"
    assert said in capfd.readouterr().err
    assert main(["evaluate", str(trained), f"--coefficients={how}", "--config.inference=whole"]) == 0


@pytest.mark.slow
def test_resuming_is_bitwise_the_same_run(segmentation_config, trained, tmp_path, monkeypatch):
    polls = iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopVote, "decided", property(lambda self: next(polls)))
        assert loop.train(segmentation_config, tmp_path / "pieces") == loop.INTERRUPTED
    assert loop.train(segmentation_config, tmp_path / "pieces") == 0
    pieces, straight = (jax.device_get(load_workdir(path)[1]) for path in (tmp_path / "pieces", trained))
    chex.assert_trees_all_equal(pieces, straight)


def test_evaluate_prints_the_classes_and_draws_the_matrix(trained, capfd):
    assert main(["evaluate", str(trained), "--held-out", "--config.inference=slide"]) == 0
    out = capfd.readouterr().out
    assert re.match(r"mIoU \d+\.\d\d % \| pixels \d+\.\d\d % \| loss .* \| 2 images \| step 12\n", out)
    for name in CLASSES:
        assert re.search(rf"^\| {name} +\| [\d.]+ +\| [\d.]+ +\|$", out, re.MULTILINE)
    assert (trained / "confusion_held_out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "WORKDIR", "--config.learning_rate=1"], "learning_rate cannot be changed in an evaluation; keys"),
        (["evaluate", "WORKDIR", "--config.inference=slid"], "inference must be 'whole' or 'slide', not 'slid'"),
        (
            ["evaluate", "WORKDIR", "--config.data.label_size=[20,20]"],
            "val is 64x64, larger than data.label_size; use ",
        ),
        (["predict", "WORKDIR", "MAPS/val", "MAPS/train"], "several images are called 000"),
        (["predict", "WORKDIR", "nowhere.png"], "there is no image nowhere.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_commands(trained, maps, capfd, command, message):
    command = [part.replace("WORKDIR", str(trained)).replace("MAPS", str(maps[0])) for part in command]
    assert main(command) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err


@pytest.mark.slow
def test_damaged_test_images_are_left_out(trained, maps, tmp_path, segmentation_config, capfd):
    """They are missing in the evaluation and in the pictures; an evaluation may allow them on its own."""
    root = tmp_path / "maps"
    write_maps(root, {"train": [(32, 32)] * 8, "val": [(32, 32)] * 3})
    cv2.imwrite(str(root / "valannot/000.png"), np.zeros((32, 33), np.uint8))
    own = segmentation_config.copy_and_resolve_references().unlock()
    own.data.name, own.data.max_corrupt, own.epochs, own.eval_every_epochs = f"maps:{root}", 1, 2.0, 1.0
    assert loop.train(own.lock(), tmp_path / "run") == 0
    assert {row["examples"] for row in read_metrics(tmp_path / "run/metrics.jsonl", "test")} == {2}
    assert main(["evaluate", str(trained), f"--data=maps:{root}"]) == 2
    assert "more than --config.data.max_corrupt=0" in capfd.readouterr().err
    assert main(["evaluate", str(trained), f"--data=maps:{root}", "--config.data.max_corrupt=1"]) == 0
    err = capfd.readouterr().err
    assert "different sizes: 32x32 and 32x33" in err
    assert "Warning" not in err


@pytest.mark.slow
def test_two_hosts_are_one_run(maps, trained, tmp_path):
    """Signalled in between, they save and go on; one of them makes the pictures."""
    own = {"config": tiny_segmentation.__file__}
    data = f"--config.data.name=maps:{maps[0]}"
    hosts = two_hosts(tmp_path / "run", data, options=(own, own), devices=4)
    hosts[0].read_until("step 4/12")
    hosts[1].process.send_signal(signal.SIGTERM)
    assert [host.finish() for host in hosts] == [loop.INTERRUPTED] * 2, hosts[0].output + hosts[1].output
    hosts = two_hosts(tmp_path / "run", data, options=(own, own), devices=4)
    assert [host.finish() for host in hosts] == [0, 0], hosts[0].output + hosts[1].output
    (first, last), (_, expected) = (
        read_metrics(path / "metrics.jsonl", "test") for path in (tmp_path / "run", trained)
    )
    assert (first["step"], last["step"], last["examples"]) == (6, 12, expected["examples"])
    assert last["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert np.sum(last["confusion"]) == np.sum(expected["confusion"])
    events = b"".join(path.read_bytes() for path in (tmp_path / "run/tensorboard").glob("events*"))
    assert b"\x89PNG" in events
