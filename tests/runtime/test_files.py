"""A network's file: what it says of the network, and that it computes what the network does."""

import struct
import zlib

import numpy as np
import pytest

import dynet_runtime
from dynet_jax.errors import UserError
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.native.file import write_file
from dynet_jax.models.registry import list_models
from tests.inference.networks import NAMES, PIXELS, expected, images, network
from tests.inference.test_programs import needs_compiler
from tests.runtime.files import NUMBERS, PREPROCESSING, SHAPES, content, options_of, program_named

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


def test_what_the_engine_has_not():
    program = network("dy_mobile")[2]
    with pytest.raises(UserError, match="runs networks that end with a layer for classes"):
        write_file(program._replace(result=1), options_of("dy_mobile", "float32"), PREPROCESSING)
