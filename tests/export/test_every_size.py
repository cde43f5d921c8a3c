"""Exported files at the sizes that networks are used at: StableHLO, ONNX Runtime and OpenVINO, one image and three."""

import functools

import jax
import numpy as np
import pytest

from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.export.stablehlo import to_stablehlo
from dynet_jax.inference import InferenceModel, Preprocessing
from dynet_jax.ops.backend import tracing_for
from tests.export.test_onnx import OPTIONS, logits, session
from tests.inference.networks import PIXELS, SIZE, assert_same, expected, images, network

pytestmark = pytest.mark.slow
everywhere = pytest.mark.parametrize(
    ("name", "size"),
    [("dy_mobile", (224, 224)), ("dy_mobile", (512, 512)), ("dy_mobile", (225, 193)), ("dy_resnet50", (225, 193))],
)


def assert_right(runtime, name, size):
    """The network in evaluation treats each image by itself, so what is expected of three is expected of one."""
    pixels, wanted = images(3, *size), expected(name, 3, *size)
    assert_same(np.asarray(runtime(pixels)), wanted)
    assert_same(np.asarray(runtime(pixels[:1])), wanted[:1])


@functools.cache
def exported(name):
    return jax.export.deserialize(to_stablehlo(model(name)).serialize())


def model(name):
    return InferenceModel(network(name)[2], Preprocessing(SIZE, SIZE, **PIXELS), runtime="jax")


@everywhere
def test_stablehlo(name, size):
    assert_right(lambda pixels: exported(name).call(pixels)["logits"], name, size)


def test_stablehlo_is_the_same_on_a_machine_with_a_tpu():
    trained, texts = model("dy_mobile"), set()
    for hardware in (("tpu", "TPU v5 lite"), ("cpu", "cpu")):  # from one line: the text says from which
        with tracing_for(*hardware):
            texts.add(to_stablehlo(trained).mlir_module())
    assert len(texts) == 1


@everywhere
def test_onnx_runtime(name, size):
    assert_right(lambda pixels: logits(session(name), pixels), name, size)


@everywhere
def test_openvino(name, size):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    model = core.read_model(program_to_onnx(network(name)[2], **OPTIONS).SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2})
    assert_right(lambda pixels: compiled({"images": pixels})["logits"], name, size)
