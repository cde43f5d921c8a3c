"""The programs in examples/, each in a process of its own, as a user would start them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import onnx
import pytest

from dynet_jax.data import load_source
from tests.export.test_onnx import in_runtime
from tests.inference.workdirs import make_workdir
from tests.quick_compilation import flags

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SECONDS = 300
COVERED = {"own_network_linen.py", "own_network_nnx.py", "finetune_and_export.py", "analyse_checkpoint.py"}


def start(example: str, *arguments, **options) -> subprocess.Popen:
    environment = {**os.environ, "XLA_FLAGS": flags(devices=1), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", str(EXAMPLES / example), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(example: str, *arguments, code: int = 0) -> tuple[str, str]:
    """Its output and its errors."""
    process = start(example, *arguments)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == code, output + errors
    return output, errors


def test_no_example_is_left_out():
    assert {path.name for path in EXAMPLES.glob("*.py")} == COVERED
    page = (EXAMPLES / "README.md").read_text()
    for name in COVERED:
        assert f"python examples/{name}" in page
        assert f"python examples/{name}" in (EXAMPLES / name).read_text().split('"""')[1]


# A network of your own ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epochs"), [("linen", 6), ("nnx", 8)])
def test_own_network_learns_with_both_kinds_of_convolution(kind, epochs):
    output, _ = run(f"own_network_{kind}.py", f"--epochs={epochs}")
    found = dict(re.findall(r"^(n\S+\.Conv|DynamicConv) *:.* test accuracy (\S+) %", output, re.MULTILINE))
    assert len(found) == 2, output
    assert min(map(float, found.values())) > 60, output  # chance: 10
    assert output.count(" multiply-adds, ") == 2
    parameters = [int(number.replace(",", "")) for number in re.findall(r"(\S+) parameters", output)]
    assert parameters[1] > 5 * parameters[0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "stablehlo"])
def test_own_network_is_exported(suffix, tmp_path):
    path = tmp_path / f"digits.{suffix}"
    output, _ = run("own_network_linen.py", "--epochs=6", f"--export={path}")
    accuracy = float(re.findall(r"^DynamicConv *:.* test accuracy (\S+) %", output, re.MULTILINE)[0])
    test = load_source("digits", "test")
    pixels = np.repeat(test.images[..., None], 3, axis=-1)
    if suffix == "onnx":
        (logits,) = in_runtime(onnx.load(path)).run(["logits"], {"images": pixels})
    else:
        logits = jax.export.deserialize(bytearray(path.read_bytes())).call(pixels)["logits"]
    assert 100 * np.mean(np.argmax(logits, -1) == test.labels) == pytest.approx(accuracy, abs=0.3)


# Fine-tuning and export -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Red and blue pictures with noise: 16 to train with and 6 to test."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for channel, name in ((0, "blue"), (2, "red")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 80, (40, 52, 3), np.uint8)
                image[..., channel] += 150
                cv2.imwrite(str(folder / split / name / f"{index}.jpg"), image)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A small Dy-ResNet18 for the ten digits at 32 pixels."""
    folder = tmp_path_factory.mktemp("pretrained")
    digits = list(map(str, range(10)))
    return make_workdir(folder, digits, size=32, resize_to=32, dataset="digits", network="dy_resnet18")


@pytest.mark.slow
def test_finetune_and_export(photographs, pretrained, tmp_path):
    arguments = (photographs, f"--init_from={pretrained}", f"--workdir={tmp_path}", "--epochs=2")
    output, _ = run("finetune_and_export.py", *arguments)
    assert f"starting from {pretrained} with new classifier" in output
    assert re.search(r"^top-1 of 6 validation images: \d+\.\d\d %$", output, re.MULTILINE)
    assert float(re.search(r"differ from the network's by at most (\S+)", output)[1]) < 1e-4
    import onnxruntime

    notes = onnxruntime.InferenceSession(tmp_path / "dy_resnet18.onnx").get_modelmeta().custom_metadata_map
    assert notes["class_names"] == '["blue", "red"]'
    check_that_the_check_can_fail(tmp_path)


def check_that_the_check_can_fail(workdir):
    """Changes the classifier's bias in the file, so that its logits differ from the network's."""
    import runpy

    import onnx

    model = onnx.load(workdir / "dy_resnet18.onnx")
    (body,) = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.name == "body"]
    bias = next(tensor for tensor in body.initializer if tensor.name == "classifier/bias")
    changed = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(model, workdir / "changed.onnx")
    example = runpy.run_path(str(EXAMPLES / "finetune_and_export.py"))
    difference, _ = example["largest_difference"](workdir / "changed.onnx", workdir)
    assert difference == pytest.approx(0.01, rel=1e-2)


@pytest.mark.slow
def test_finetuning_stops_at_a_signal_and_asks_to_be_started_again(photographs, pretrained, tmp_path):
    process = start(
        "finetune_and_export.py", photographs, f"--init_from={pretrained}", f"--workdir={tmp_path}", "--epochs=3"
    )
    for line in process.stdout:
        if line.startswith("compiling"):
            process.send_signal(signal.SIGTERM)
            break
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output + errors
    assert "run the same command to resume" in output


# Analysis -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_analyse_checkpoint(pretrained):
    output, _ = run("analyse_checkpoint.py", pretrained, "--images=20")
    assert "dy_resnet18 at step 0, on 20 test images of digits" in output
    assert re.search(r"^top-1 \d+\.\d\d % of 20 images", output, re.MULTILINE)
    assert re.search(r"confused most often: \d is taken for \d in \d+ of \d+ images", output)
    assert re.search(r"correlation of \d+ channels of stage3: mean \|r\| 0\.\d+", output)
    assert re.search(r"kernels over the images: \d\.\d\d of at most 6", output)
    names = {path.name for path in (pretrained / "analysis").iterdir()}
    assert names >= {"layers.csv", *(f"{n}.png" for n in ("confusion", "correlation", "coefficients", "ranks"))}


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "arguments", "message"),
    [
        ("own_network_linen.py", ["--epochs=0"], "--epochs must be at least 1, not 0"),
        ("own_network_nnx.py", ["--epochs=0"], "--epochs must be at least 1, not 0"),
        ("finetune_and_export.py", ["nowhere", "--workdir=w"], "there is no nowhere/train; an image folder is laid"),
        (
            "finetune_and_export.py",
            ["nowhere", "--workdir=w", "--init_from=nothing"],
            "nothing is not a work directory",
        ),
        ("analyse_checkpoint.py", ["nowhere"], "nowhere is not a work directory"),
    ],
)
def test_mistakes_are_one_line(example, arguments, message, tmp_path):
    process = start(example, *arguments, cwd=tmp_path)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output + errors
    assert errors.startswith(f"{example}: {message}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
