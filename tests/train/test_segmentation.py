"""Segmentation from folders of maps to mIoU, in whole runs."""

import json
import re
import signal

import chex
import cv2
import jax
import numpy as np
import pytest

from dynet_jax.cli import main, train_main
from dynet_jax.data.augment import resize
from dynet_jax.data.decode import decode
from dynet_jax.models import registry
from dynet_jax.ops.pixels import normalize
from dynet_jax.ops.segmentation import resize_maps
from dynet_jax.predict import evaluate_workdir
from dynet_jax.train import loop
from dynet_jax.train.distributed import make_layout, to_devices
from dynet_jax.train.evaluate import evaluate
from dynet_jax.train.metrics import read_metrics
from dynet_jax.train.restore import load_workdir
from dynet_jax.train.segmentation import Segmentation
from dynet_jax.train.setup import make_run, open_data
from dynet_jax.train.step import make_eval_step, make_train_step
from tests.data.maps import CLASSES, IGNORED, write_maps
from tests.train import tiny_segmentation
from tests.train.processes import two_hosts

# Odd sizes, smaller than the crop of 32x32 and larger; more test images than devices.
SIZES = {
    "train": [(40, 48), (33, 61), (20, 25), (64, 31)] * 4,
    "val": [(40, 48), (33, 61), (64, 64), (17, 23), (40, 48), (41, 47), (20, 64), (50, 30), (40, 48)],
    "test": [(40, 48), (30, 30)],
}


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """(folder, {split: [(image, labels), ...]})"""
    root = tmp_path_factory.mktemp("maps")
    return root, write_maps(root, SIZES)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The tiny networks, here alone."""
    before = dict(registry._BUILDERS), dict(registry._TASKS)
    yield
    for kept, own in zip(before, (registry._BUILDERS, registry._TASKS)):
        own.clear()
        own.update(kept)


@pytest.fixture
def config(maps):
    config = tiny_segmentation.get_config().unlock()
    config.data.name = f"maps:{maps[0]}"
    return config.lock()


@pytest.fixture(scope="module")
def trained(maps, registered, tmp_path_factory):
    """The work directory of a run to its end, on 8 devices."""
    config, workdir = tiny_segmentation.get_config().unlock(), tmp_path_factory.mktemp("trained") / "run"
    config.data.name = f"maps:{maps[0]}"
    assert loop.train(config.lock(), workdir) == 0
    return workdir


def plain_iou(pairs) -> dict[int, float]:
    """From [(predicted, labels), ...], class by class, pixel sets as booleans."""
    iou = {}
    for index in range(len(CLASSES)):
        both = sum(np.sum((p == index) & (y == index)) for p, y in pairs)
        either = sum(np.sum(((p == index) & (y != IGNORED)) | (y == index)) for p, y in pairs)
        if either:
            iou[index] = both / either
    return iou


def test_it_learns(trained):
    train, test = (read_metrics(trained / "metrics.jsonl", kind) for kind in ("train", "test"))
    assert [row["step"] for row in test] == [6, 12]
    assert train[-1]["loss"] < 0.7 * train[0]["loss"]
    assert train[-1]["pixel_accuracy"] > 0.6
    assert json.loads((trained / "labels.json").read_text()) == CLASSES
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    events = b"".join(path.read_bytes() for path in (trained / "tensorboard").glob("events*"))
    assert b"test/miou" in events
    assert b"\x89PNG" in events  # pictures of test images


def test_miou_is_numpys_on_the_predictions_that_are_written(trained, maps, tmp_path, capfd):
    """`dynet predict` enlarges by OpenCV on the host, evaluation on the device: the same pixels, but for ties."""
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


def test_a_training_step_is_the_same_on_any_number_of_devices(config):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": rng.choice([0, 1, 2, 255], (8, 32, 32)).astype(np.uint8),
    }
    results = []
    for devices in (1, 8):
        layout = make_layout(8, 8, devices=jax.devices()[:devices])
        run = make_run(config, 16, layout)
        step = make_train_step(run.model, run.optimizer, layout, run.task, **run.pixels)
        state, metrics = step(run.fresh_state(), to_devices(batch, layout))
        results.append(jax.device_get((state.params, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), *results)
    assert results[0][1]["examples"] == 8


def test_the_loss_is_a_mean_over_all_pixels(config):
    """Ignored pixels give 0, and the second head counts as the configuration says."""
    rng, task = np.random.default_rng(0), Segmentation(config)
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


def test_resuming_is_bitwise_the_same_run(config, trained, tmp_path, monkeypatch):
    polls = iter([False] * 5 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopVote, "decided", property(lambda self: next(polls)))
        assert loop.train(config, tmp_path / "pieces") == loop.INTERRUPTED
    assert loop.train(config, tmp_path / "pieces") == 0
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
        (["evaluate", "WORKDIR", "--config.learning_rate=1"], "learning_rate cannot be changed in an evaluation; what"),
        (["evaluate", "WORKDIR", "--config.inference=slid"], "inference must be 'whole' or 'slide', not 'slid'"),
        (["evaluate", "WORKDIR", "--config.data.label_size=[20,20]"], "is 40x48, larger than data.label_size; use "),
        (["export", "WORKDIR", "--format=stablehlo", "--out=x"], "holds a network for segmentation; only classifiers"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.crop_size=[0,32]"], "data.crop_size must be two positive numbers, height and width"),
        (["data.scale=[2.0,0.5]"], "data.scale must be two numbers from 0.01 to 100, like"),
        (["data.name=digits"], "unknown dataset 'digits' of maps"),
        (["model.num_classes=2"], "has 3 classes but model.num_classes is 2"),
        (["model.num_classes=4"], "and those without a name would lower the mean; use --config.model.num_classes=3"),
        (["model.num_classes=255"], "model.num_classes must be at most 254, not 255"),
        (["data.scale=[0.5,Infinity]"], "data.scale must be two numbers from 0.01 to 100"),
        (["schedule=polly"], "unknown schedule 'polly'; did you mean poly"),
        (["label_smoothing=0.1"], "the configuration has no key 'label_smoothing'"),
    ],
    ids=str,
)
def test_mistakes_of_configurations(maps, tmp_path, capfd, changes, message):
    changes = [f"--config.{change}" for change in [f"data.name=maps:{maps[0]}", *changes]]
    config = f"--config={tiny_segmentation.__file__}"
    assert train_main([config, f"--workdir={tmp_path / 'run'}", *changes]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err


def test_damaged_test_images_are_left_out(trained, maps, tmp_path, config, capfd):
    """Of the evaluation, and of the pictures; an evaluation may allow them by itself."""
    root = tmp_path / "maps"
    write_maps(root, {"train": [(32, 32)] * 8, "val": [(32, 32)] * 3})
    cv2.imwrite(str(root / "valannot/000.png"), np.zeros((32, 33), np.uint8))
    own = config.copy_and_resolve_references().unlock()
    own.data.name, own.data.max_corrupt, own.epochs, own.eval_every_epochs = f"maps:{root}", 1, 2.0, 1.0
    assert loop.train(own.lock(), tmp_path / "run") == 0
    assert {row["examples"] for row in read_metrics(tmp_path / "run/metrics.jsonl", "test")} == {2}
    assert main(["evaluate", str(trained), f"--data=maps:{root}"]) == 2
    assert "more than --config.data.max_corrupt=0" in capfd.readouterr().err
    assert main(["evaluate", str(trained), f"--data=maps:{root}", "--config.data.max_corrupt=1"]) == 0
    err = capfd.readouterr().err
    assert "different sizes: 32x32 and 32x33" in err
    assert "Warning" not in err


def test_networks_are_for_one_task(tmp_path, capfd):
    arguments = ["--config=configs/dy_mobile.py:digits", f"--workdir={tmp_path / 'run'}"]
    assert train_main([*arguments, "--config.model.name=fcn_dy_mobile"]) == 2
    assert "fcn_dy_mobile is a network for segmentation, not for classification" in capfd.readouterr().err


def test_labels_of_other_classes_end_a_run_with_one_line(maps, tmp_path, config, capfd):
    root = tmp_path / "maps"
    write_maps(root, {"train": [(32, 32)] * 8, "val": [(32, 32)]})
    cv2.imwrite(str(root / "trainannot/003.png"), np.full((32, 32), 9, np.uint8))
    arguments = [f"--config={tiny_segmentation.__file__}", f"--config.data.name=maps:{root}"]
    assert train_main([*arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    err = capfd.readouterr().err
    assert re.fullmatch(r"train.py: .*003\.png has pixels of 9, which is no class of the 3 that.*\n", err), err


def test_a_backbone_begins_as_a_classifier(config, tmp_path, capsys):
    """All its parameters are the classifier's; the heads are new."""
    from tests.train.tiny_run import get_config

    classifier = get_config().unlock()
    classifier.model = {"name": "tiny", "num_classes": 10}
    classifier.epochs = 2 / 22
    assert loop.train(classifier.lock(), tmp_path / "classifier") == 0
    own = config.copy_and_resolve_references().unlock()
    own.init_from, own.learning_rate, own.epochs, own.weight_decay = str(tmp_path / "classifier"), 0.0, 0.5, 0.0
    assert loop.train(own.lock(), tmp_path / "own") == 0
    before, after = (jax.device_get(load_workdir(tmp_path / name)[1].params) for name in ("classifier", "own"))
    kept = {key: value for key, value in before.items() if key not in ("classifier", "head", "head_norm")}
    chex.assert_trees_all_equal(after["backbone"], kept)
    assert {"head", "head_norm", "classifier", "auxiliary_head"} <= after.keys()
    assert (
        "with new auxiliary_classifier, auxiliary_head, auxiliary_head_norm, classifier, head"
        in capsys.readouterr().out
    )


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
