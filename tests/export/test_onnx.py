"""ONNX files give what the network itself gives, in ONNX Runtime and in OpenVINO, for any batch and any size."""

import functools
import json
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from dynet_jax import list_models
from dynet_jax.errors import UserError
from dynet_jax.export.onnx import OPSETS, program_to_onnx
from dynet_jax.inference import Preprocessing, run_jax
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import Channels, Dense, Mean, Normalization
from tests.inference.networks import NAMES, PIXELS, SIZE, assert_same, expected, images, network, normalized
from tests.inference.operations import program_of_operations

OPTIONS = {"preprocessing": Preprocessing(SIZE, 72, **PIXELS)}
SHAPES = ((3, 65, 96), (5, 33, 47))


@functools.cache
def session(name, **arguments):
    return in_runtime(program_to_onnx(network(name, **arguments)[2], **OPTIONS))


def in_runtime(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits(session, pixels):
    (values,) = session.run(["logits"], {"images": pixels})
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_every_network(name):
    """Two batches of other sizes than that of recording, odd and not square, and an image alone."""
    for shape in SHAPES:
        assert_same(logits(session(name), images(*shape)), expected(name, *shape))
    assert_same(logits(session(name), images(*SHAPES[0])[1:2]), expected(name, *SHAPES[0])[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_mobile", "dy_cnn_resnet18"])
@pytest.mark.parametrize(
    "options",
    [
        {"normalize_pooled": True, "annealed": True, "hidden_divisor": 4, "min_hidden_features": 3},
        {"pooled_limit": 0.5},  # random statistics: most pooled features exceed it
    ],
)
def test_every_option_of_predictors(name, options):
    assert_same(logits(session(name, **options), images(3, 65, 96)), expected(name, 3, 65, 96, **options))


@pytest.mark.parametrize("name", ["dy_mobile", "dy_mobilenet_v3_small", "condconv_resnet18", "shufflenet_v2"])
def test_valid_by_the_checker(name):
    onnx.checker.check_model(program_to_onnx(network(name)[2], **OPTIONS), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dy_mobile", (2, 224, 224)),
        ("dy_mobile", (1, 225, 193)),
        ("dy_mobile", (1, 512, 512)),
        ("dy_mobile", (1, 32, 400)),
        ("dy_resnet18", (1, 225, 193)),
    ],
)
def test_any_size(name, shape):
    assert_same(logits(session(name), images(*shape)), expected(name, *shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dy_resnet18", {"padding": "TORCH"}),
        ("dy_mobile", {"output_stride": 8}),
        ("dy_resnet50", {"small_input": True}),
    ],
)
def test_options_of_networks(name, arguments):
    assert_same(logits(session(name, **arguments), images(*SHAPES[0])), expected(name, *SHAPES[0], **arguments))


def test_probabilities():
    values, probabilities = session("dy_mobile").run(["logits", "probabilities"], {"images": images(*SHAPES[0])})
    np.testing.assert_allclose(probabilities, jax.nn.softmax(values), rtol=1e-5)


def test_openvino_agrees():
    openvino = pytest.importorskip(
        "openvino", reason="OpenVINO is not installed (`make env-onnx` makes an environment with it)"
    )
    core = openvino.Core()
    for name in (
        "dy_mobile",
        "dy_shuffle",
        "shufflenet_v2",
        "fix_shuffle",
        "mobilenet_v2",
        "dy_mobilenet_v3_small",
        "dy_resnet18",
        "condconv_mobilenet_v2",
        "resnet50",
    ):
        model = core.read_model(program_to_onnx(network(name)[2], **OPTIONS).SerializeToString())
        # On some CPUs OpenVINO computes in bfloat16 unless it is told not to.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2})
        for shape in SHAPES:
            assert_same(compiled({"images": images(*shape)})["logits"], expected(name, *shape))


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["bfloat16", "float16", "int8"])
def test_stored_banks(storage):
    """The file holds the small banks, and means what the program with these banks means."""
    program = stored("dy_resnet18", storage)
    whole, small = (program_to_onnx(p, **OPTIONS) for p in (network("dy_resnet18")[2], program))
    assert len(small.SerializeToString()) < 0.8 * len(whole.SerializeToString())
    pixels = images(2, 65, 96)
    assert_same(logits(in_runtime(small), pixels), followed(program, pixels))


def stored(name, storage):
    def smaller(operation):
        if not isinstance(getattr(operation, "kernel", None), Bank):
            return operation
        if storage in ("float16", "float64"):
            return operation._replace(kernel=Bank(operation.kernel.kernels.astype(storage)))
        return operation._replace(kernel=operation.kernel.stored_as(storage))

    program = network(name)[2]
    return program._replace(operations=tuple(map(smaller, program.operations)))


def followed(program, pixels):
    """What the reference, JAX, makes of a program."""
    return np.asarray(run_jax.run(program, run_jax.arrays_of(program), normalized(pixels)))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(opset):
    model = program_to_onnx(network("dy_mobilenet_v3_small")[2], **OPTIONS, opset=opset)
    assert [entry.version for entry in model.opset_import] == [opset]
    assert_same(logits(in_runtime(model), images(*SHAPES[0])), expected("dy_mobilenet_v3_small", *SHAPES[0]))


def test_the_file_says_how_to_use_it():
    notes = {"class_names": NAMES, "metadata": {"network": "dy_mobile"}}
    opened = in_runtime(program_to_onnx(network("dy_mobile")[2], **OPTIONS, **notes))
    written = opened.get_modelmeta().custom_metadata_map
    assert json.loads(written["class_names"]) == NAMES
    assert written["network"] == "dy_mobile"
    preprocessing = json.loads(written["preprocessing"])
    assert preprocessing.pop("interpolation")
    assert preprocessing == {"resize_to": 72, "image_size": SIZE, "mean": [120, 115, 105], "std": [60, 58, 62]}
    assert [i.shape for i in opened.get_inputs()] == [["batch", "height", "width", 3]]
    assert [(o.name, o.shape) for o in opened.get_outputs()] == [(n, ["batch", 5]) for n in ("logits", "probabilities")]
    assert_same(logits(opened, images(*SHAPES[0])), expected("dy_mobile", *SHAPES[0]))


def test_a_part_of_a_concatenation():
    rng = np.random.default_rng(0)
    operations = (
        Channels("part", (0, 0), 1, 0, 4),  # of six channels
        Mean("mean", 1, 2, keep_positions=True),
        Dense("logits", 2, 3, *(rng.normal(size=shape).astype(np.float32) for shape in ((4, 5), (5,)))),
    )
    program = program_of_operations(operations, 3)
    assert_same(logits(in_runtime(program_to_onnx(program, **OPTIONS)), images(2)), followed(program, images(2)))


def test_runtime_adds_residuals_in_the_convolution(tmp_path):
    """It does so only if it knows that both have one size, though nobody knows the size."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = program_to_onnx(network("dy_resnet18")[2], **OPTIONS)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (scan,) = (n for n in onnx.load(options.optimized_model_filepath).graph.node if n.op_type == "Scan")
    kinds = [node.op_type for node in onnx.helper.get_node_attr_value(scan, "body").node]
    assert "FusedConv" in kinds
    assert "Add" not in kinds


def test_mistakes_are_named(monkeypatch):
    program = network("dy_mobile")[2]
    for opset in (18, 99):
        with pytest.raises(UserError, match=rf"opset {opset} is not one of 19 to \d+"):
            program_to_onnx(program, **OPTIONS, opset=opset)
    with pytest.raises(UserError, match="there are 2 class names for 5 classes"):
        program_to_onnx(program, **OPTIONS, class_names=["a", "b"])
    with pytest.raises(UserError, match="mean and std are three numbers each"):
        program_to_onnx(program, preprocessing=Preprocessing(SIZE, SIZE, (0.5,), (1, 1, 1)))
    with pytest.raises(UserError, match=r"the bank of .* is float64; ONNX files hold float32, "):
        program_to_onnx(stored("dy_mobile", "float64"), **OPTIONS)
    one = np.ones(3, np.float32)
    unfolded = program._replace(operations=(Normalization("norm", 0, 99, one, one), *program.operations))
    with pytest.raises(UserError, match="norm is a Normalization: call fold"):
        program_to_onnx(unfolded, **OPTIONS)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx"):
        program_to_onnx(program, **OPTIONS)
