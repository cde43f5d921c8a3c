"""Lack of memory: bounded batches, and one line that says how to need less, wherever it occurs."""

import errno
import shlex
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from dynet_jax import predict
from dynet_jax.arguments import report_mistakes
from dynet_jax.cli import main
from dynet_jax.config.recipe import paper_recipe, segmentation_recipe
from dynet_jax.data import evaluation_batches
from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.data.decode import decode
from dynet_jax.data.record import Record
from dynet_jax.errors import UserError
from dynet_jax.evaluation.evaluate import evaluation_batch_size
from dynet_jax.inference.pictures import ReadAhead, Ready
from dynet_jax.inference.predictions import classify
from dynet_jax.trained import TrainedNetwork

DEVICE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 43 GB\n more")
PICTURE = cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 12 bytes")
ERRORS = {
    "jax": DEVICE,
    "cudnn": jax.errors.JaxRuntimeError("INTERNAL: CUDNN_STATUS_ALLOC_FAILED"),
    "python": MemoryError("Unable to allocate 3 GiB"),
    "opencv": PICTURE,
    "torch": type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "C++": RuntimeError("std::bad_alloc"),
}


def raises(error):
    def run(*arguments, **options):
        raise error

    return run


# How many images at once


@pytest.mark.parametrize(
    ("config", "examples", "batch", "expected"),
    [
        (paper_recipe("resnet50"), 50_000, None, 64),  # not 2048, which would need 43 GB
        (paper_recipe("resnet50"), 10, None, 10),
        (paper_recipe("resnet50"), 50_000, 3, 3),
        (segmentation_recipe("fcn_resnet50"), 500, None, 1),
    ],
)
def test_an_evaluation_takes_what_any_device_has_memory_for(monkeypatch, config, examples, batch, expected):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    network = predict.place(TrainedNetwork(Path("run"), config, None, {}, [], 0), batch)
    assert evaluation_batch_size(network, examples) == expected


@pytest.mark.parametrize(
    ("size", "batch", "expected"), [(224, None, 32), (1024, None, 3), (224, 2, 2), (4000, None, 1)]
)
def test_a_prediction_does_too(size, batch, expected):
    taken = []

    def logits(images):
        taken.append(len(images))
        return np.zeros((len(images), 2), np.float32)

    pictures = [Ready(None, error="no image"), *[Ready(None, prepared=np.zeros((size, size, 3), np.uint8))] * 40]
    assert len(list(classify(logits, pictures, ["a", "b"], 1, padded=False, batch=batch))) == 41
    assert max(taken) == expected
    assert sum(taken) == 40


# What a person is told


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_one_line_wherever_it_comes_from(error, capsys):
    assert report_mistakes("dynet", raises(error), lambda: "use a smaller --batch") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("dynet: ")
    assert "memory is not enough (" in said
    assert "use a smaller --batch, or end other processes that use it" in said


def test_a_mistake_that_it_was_taken_for(capsys):
    """A library's file that 'cannot be read' for lack of memory is not a mistake of the user."""

    def run():
        try:
            raise MemoryError("1 GB")
        except MemoryError as error:
            raise UserError("weights.pth cannot be read as weights") from error

    assert report_mistakes("dynet", run) == 2
    assert capsys.readouterr().err.startswith("dynet: memory is not enough (MemoryError: 1 GB); end other processes")


def test_what_only_speaks_of_memory(capsys):
    assert report_mistakes("dynet", raises(UserError("there is no image out of memory.jpg"))) == 2
    assert report_mistakes("dynet", raises(FileNotFoundError(2, "No such file", "bad_alloc.png"))) == 2
    assert capsys.readouterr().err == "dynet: there is no image out of memory.jpg\ndynet: No such file: bad_alloc.png\n"
    vmem = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem")
    with pytest.raises(jax.errors.JaxRuntimeError):  # a fault of a kernel's
        report_mistakes("dynet", raises(vmem))


@pytest.mark.parametrize(
    ("command", "function", "advice"),
    [
        ("evaluate run", "dynet_jax.predict.evaluate_workdir", "use a smaller --batch, down to --batch=1"),
        (
            "predict run tests",
            "dynet_jax.workdir.files.read_config",
            "use a smaller --batch, down to --batch=1",
        ),
        ("export run --format=onnx", "dynet_jax.export.files.export_workdir", "; end other processes"),
        ("correlate run", "dynet_jax.analysis.trained.open_trained", "look at fewer images, like --images=8, or end"),
    ],
)
def test_commands_name_what_they_take(monkeypatch, capsys, command, function, advice):
    monkeypatch.setattr(function, raises(DEVICE))
    monkeypatch.setattr("dynet_jax.inference.pictures.list_pictures", lambda images: images)
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "dynet: the device's memory is not enough (JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    )
    assert advice in said


# Images


class Pictures:
    class_names = ("a", "b")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Record(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(), 0, f"{index}.png")

    def name_of(self, index):
        return f"{index}.png"


def test_a_picture_that_there_is_no_memory_for_is_not_a_corrupt_one(monkeypatch, capsys):
    monkeypatch.setattr(cv2, "imdecode", raises(PICTURE))
    with pytest.raises(MemoryError, match=r"photo\.png: .*Insufficient memory"):
        decode(b"anything", "photo.png")
    corrupt = CorruptImages(limit=0)
    batches = evaluation_batches(
        Pictures(), lambda record: {"image": record.image}, blank={}, batch_size=2, threads=2, corrupt=corrupt
    )
    with pytest.raises(MemoryError, match=r"\d\.png: .*Insufficient memory"):
        list(batches)
    assert not corrupt.names
    assert capsys.readouterr().err == ""


def test_nor_one_that_is_predicted(monkeypatch, tmp_path):
    (tmp_path / "a.png").write_bytes(b"anything")
    monkeypatch.setattr(Path, "read_bytes", raises(OSError(errno.ENOMEM, "Cannot allocate memory")))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        list(ReadAhead([tmp_path / "a.png"], lambda image: image, threads=1, ahead=1))
