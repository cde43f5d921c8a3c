"""A network's file: what it says of the network, and that it computes what the network does."""

import struct
import zlib

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.native.file import write_file
from dynet_jax.inference.program import Convolution, Predictor
from dynet_jax.models.registry import list_models
from tests.inference.networks import NAMES, PIXELS, expected, images, network
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import NUMBERS, PREPROCESSING, SHAPES, content, options_of, program_named
from tests.runtime.reading import kernels_of_bytes, kernels_of_floats, read

pytestmark = needs_compiler


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("numbers", ["float32", "int8"])
def test_every_network(name, numbers):
    """Bit for bit what the engine of `dynet predict` computes, and in float32 what the network itself does."""
    options = options_of(name, numbers)
    engine = Engine(program_named(name), **PIXELS, threads=2, **options._asdict())
    model = dynet_runtime.load(content(name, numbers), threads=2)
    for shape in SHAPES:
        np.testing.assert_array_equal(model.logits(images(*shape)), engine(images(*shape)))
    if numbers == "float32" and not name.startswith("fcn_"):
        wanted = expected(name, *SHAPES[0])
        assert np.abs(model.logits(images(*SHAPES[0])) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_what_a_file_says(tmp_path):
    path = tmp_path / "small.dynet"
    names = ["tench", 'a "quoted" \\ name', "ein Hühnchen", "鶏", ""]
    program = network("dy_mobile")[2]
    path.write_bytes(
        write_file(program, options_of("dy_mobile", "mixed"), PREPROCESSING, name="dy_mobile", class_names=names)[0]
    )
    model = dynet_runtime.load(path, threads=1)
    assert model.class_names == names
    assert (model.name, model.storage, model.arithmetic) == ("dy_mobile", "bfloat16", "int8")
    assert (model.classes, model.threads, model.is_segmentation) == (len(NAMES), 1, False)
    assert (model.image_size, model.resize_to) == ((48, 48), 56)
    np.testing.assert_allclose([model.mean, model.std], [PIXELS["mean"], PIXELS["std"]])


def test_a_picture(tmp_path):
    """From a picture of any size to the same pixels as in evaluation, and to probabilities."""
    model = dynet_runtime.load(content("dy_mobile"), threads=2)
    picture = images(1, 93, 130)[0]
    prepared = PREPROCESSING(picture)
    np.testing.assert_array_equal(model.preprocess(picture), prepared)
    logits = model.logits(prepared[None])[0]
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(model(picture), wanted, rtol=1e-5)
    assert model.top(picture, 2) == [(NAMES[i], pytest.approx(wanted[i], rel=1e-5)) for i in np.argsort(-wanted)[:2]]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_layout_that_is_documented(numbers):
    """Header, checksum and arrays as docs/native_format.md has them, read without the library."""
    file = content("dy_mobile", numbers)
    assert file[:8] == b"\x93DYNET\r\n"
    version, checksum, size, words = struct.unpack_from("<IIQQ", file, 8)
    assert (version, size) == (1, len(file))
    assert checksum == zlib.crc32(file[16:])
    assert file[32:64] == bytes(32)
    (length,) = struct.unpack_from("<I", file, 64)
    assert file[68 : 68 + length] == b"dy_mobile"
    assert 64 + 4 * words < size


@pytest.mark.parametrize("name", ["dy_mobile", "dy_resnet18", "dy_shuffle", "mobilenet_v3_small"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_weights_by_the_description_of_the_format(name, numbers):
    """A reader that was written from docs/native_format.md finds the kernels of the program."""
    options = options_of(name, numbers)
    lowered = write_file(program_named(name), options, PREPROCESSING)[1]
    about, operations = read(content(name, numbers))
    assert (about["name"], about["result"]) == (name, lowered.result)
    assert [op["name"] for op in operations] == [op.name for op in lowered.operations]
    for found, op in zip(operations, lowered.operations):
        if isinstance(op, Convolution):
            check_kernels(found, op, options.storage)
        elif isinstance(op, Predictor):
            assert (found["ys"], found["features"]) == (op.ys, op.features)
            check_layer(found["output"], *op.output, options.storage)


def check_kernels(found, op, storage):
    is_bank = isinstance(op.kernel, Bank)
    wanted = op.kernel.stored_as(storage).dequantized if is_bank else op.kernel[None]
    if found["kind"] == 1:
        kernels, tolerance = kernels_of_floats(found), 2**-8 if found["mode"] == 1 and not found["group_size"] else 0
        np.testing.assert_array_equal(found["bias"], op.bias)
    elif found["group_size"]:
        kernels, tolerance = kernels_of_bytes(found), 0
    else:  # integers, the largest of each output 127; those that read pixels are divided by their deviation before
        kernels, tolerance = kernels_of_bytes(found), 0.5 / 127
        wanted = wanted / np.reshape(PIXELS["std"], (3, 1)) if op.x == 0 else wanted
        wanted = wanted * (127 / np.maximum(np.abs(wanted).max((0, 1, 2, 3)), 1e-30))
        tolerance *= 1.001
    np.testing.assert_allclose(kernels, wanted, rtol=1e-6, atol=tolerance * np.abs(wanted).max())


def check_layer(found, kernel, bias, storage):
    inputs, outputs, weights, scales, biases = found
    assert (inputs, outputs) == kernel.shape
    whole = weights.astype(np.float32).reshape(-1, inputs, 64).transpose(1, 0, 2).reshape(inputs, -1)
    assert not whole[:, outputs:].any()
    whole = whole * scales if len(scales) else whole
    wanted = Bank(kernel[None]).stored_as(storage).dequantized[0]
    np.testing.assert_allclose(whole[:, :outputs], wanted, rtol=1e-6)
    np.testing.assert_array_equal(biases[:outputs], bias)


def test_what_the_engine_has_not():
    program = network("dy_mobile")[2]
    with pytest.raises(UserError, match="runs networks that end with a layer for classes"):
        write_file(program._replace(result=1), options_of("dy_mobile", "float32"), PREPROCESSING)
