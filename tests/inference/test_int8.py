"""Int8 arithmetic of the native engine, against a model of it in NumPy, and against the network in float32."""

import json

import numpy as np
import pytest
from PIL import Image

from dynet_jax.cli import main
from dynet_jax.errors import UserError
from dynet_jax.inference import InferenceModel, Preprocessing, load
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import SAMPLES, Bytes, _spread, find_ranges
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.native.quads import pack_rows, requantization
from dynet_jax.inference.program import Channels, Convolution, Elementwise, MaxPool, Mean, Predictor
from tests.inference.int8_reference import int8_logits
from tests.inference.networks import PIXELS, images, network
from tests.inference.operations import CONVOLUTIONS, after_a_stem, normal, one_convolution, program_of_operations
from tests.inference.test_programs import needs_compiler
from tests.inference.workdirs import make_workdir

pytestmark = needs_compiler
OTHER_PADDINGS = {"same_lower", "circular", "reflect"}  # that the engine has not
SHAPES = ((2, 9, 12), (1, 33, 47))  # in strips, too
GROUPS = [(6, 6, 3), (18, 18, 3), (12, 24, 2), (10, 10, 10), (4, 8, 4), (30, 20, 5), (132, 198, 3)]
NETWORKS = ("dy_mobile", "dy_shuffle", "dy_resnet18", "mobilenet_v3_small", "shufflenet_v2")
PREPROCESSING = Preprocessing(8, 8, **PIXELS)


def in_int8(program, shape, *, threads=1, storage="float32"):
    """(the engine's logits of random images, NumPy's)"""
    ranges = find_ranges(program, PREPROCESSING, [images(*shape)])
    options = {**PIXELS, "threads": threads, "storage": storage, "arithmetic": "int8", "ranges": ranges}
    return Engine(program, **options)(images(*shape)), int8_logits(program, ranges, images(*shape), **PIXELS)


def check(program, shapes=SHAPES, tolerance=1e-3, **options):
    """Numbers between two bytes may be rounded to either, here and there: float32 is not float64."""
    for shape in shapes:
        logits, wanted = in_int8(program, shape, **options)
        assert logits.shape == wanted.shape
        np.testing.assert_allclose(logits, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", sorted(CONVOLUTIONS.keys() - OTHER_PADDINGS))
def test_every_convolution(case, dynamic):
    outputs = 4 if case == "depthwise" else 6  # half a quad more than one
    activation = {"strides": "hard_swish", "groups": "relu6", "dilation": None}.get(case, "silu")
    check(one_convolution(dynamic, case, outputs=outputs, activation=activation))


def program_of_groups(inputs, outputs, groups, dynamic):
    """With paddings of signed maps, whose zero is a byte of its own, and with strides."""
    options = {"feature_group_count": groups, "activation": "relu6"}
    kernel = normal(2, 3, 3, inputs // groups, outputs)
    eta = (normal(4, 2 * outputs), normal(2 * outputs))
    kernels = [Bank(kernel) if dynamic else kernel[0], normal(outputs)]
    return after_a_stem(
        Predictor("p", 1, (2,), None, eta, 2, (outputs,), "sigmoid"),
        Convolution("signed", 1, 3, normal(1, 1, 4, inputs), normal(inputs)),
        Convolution("one", 3, 4, *kernels, coefficients=2 if dynamic else None, **options),
        Convolution("two", 3, 5, *kernels, coefficients=2 if dynamic else None, strides=(2, 2), **options),
        Convolution("back", 4, 6, normal(3, 3, outputs, outputs), normal(outputs), strides=(2, 2), residual=5),
        channels=outputs,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("groups", GROUPS)
def test_groups_that_share_quads(groups, dynamic):
    check(program_of_groups(*groups, dynamic), tolerance=1e-3 if groups[0] < 100 else 5e-3)  # more numbers are rounded


def test_layers_that_fill_whole_tiles_and_parts_of_them():
    """Outputs, inputs and positions around the 16, 32 and 64 that some instructions take at once."""
    for inputs, outputs in ((31, 33), (66, 36), (140, 17)):
        program = after_a_stem(
            Convolution("more", 1, 2, normal(1, 1, 4, inputs), normal(inputs), activation="relu"),
            Convolution("wide", 2, 3, normal(3, 3, inputs, outputs) / 20, normal(outputs), strides=(2, 1)),
            Convolution("point", 3, 4, normal(1, 1, outputs, outputs) / 5, normal(outputs), residual=3),
            channels=outputs,
        )
        check(program, tolerance=5e-3)  # a byte that is rounded otherwise is seen in many sums


@pytest.mark.parametrize("of", ["groups", "bank"])
def test_images_that_are_read_as_floats(of):
    """By a layer in groups, or by one that depends on the image; what it gives is made bytes behind it."""
    kernel, groups = (normal(3, 3, 1, 6), 3) if of == "groups" else (Bank(normal(2, 3, 3, 3, 6)), 1)
    eta = (normal(3, 12), normal(12))
    options = {"coefficients": 2} if of == "bank" else {"feature_group_count": groups}
    operations = (
        Predictor("p", 0, (2,), None, eta, 2, (6,), "sigmoid"),
        Convolution("stem", 0, 1, kernel, normal(6), activation="relu", strides=(2, 2), **options),
        Convolution("next", 1, 3, normal(1, 1, 6, 5), normal(5), activation="silu"),
        Mean("mean", 3, 4, keep_positions=True),
        Convolution("logits", 4, 5, normal(1, 1, 5, 3), normal(3)),
    )
    check(program_of_operations(operations, 5))


def test_images_of_floats_are_rounded():
    program = one_convolution(False, "strides")
    ranges = find_ranges(program, PREPROCESSING, [images(1, 9, 12)])
    engine = Engine(program, **PIXELS, threads=1, storage="float32", arithmetic="int8", ranges=ranges)
    near = images(1, 9, 12) + np.float32(0.4) * normal(1, 9, 12, 3).clip(-1, 1)
    np.testing.assert_array_equal(engine(near.clip(-9, 300)), engine(images(1, 9, 12)))
    near[0, 2, 3, 1] = np.nan
    with pytest.raises(UserError, match="needs images of numbers, and these have NaN"):
        engine(near)


def test_every_other_operation():
    """Sums, products, pools and permutations of bytes; and vectors, which are floats."""
    program = after_a_stem(
        Convolution("more", 1, 2, normal(1, 1, 4, 7), normal(7), activation="relu"),
        Channels("together", (1, 2, 1), 3, 0, 14),
        Channels("some", (3,), 4, 3, 9, (5, 0, 2, 1, 4, 3)),
        MaxPool("pool", 4, 5, 3, 1, "SAME"),
        MaxPool("half", 5, 6, 2, 2, "TORCH"),
        Mean("squeeze", 6, 7, keep_positions=True),
        Elementwise("gate", (6, 7), 8, "multiply"),
        Elementwise("sum", (8, 6), 9, "add"),
        *(Elementwise(f, (9 + i,), 10 + i, f) for i, f in enumerate(("silu", "hard_sigmoid", "sigmoid", "relu6"))),
        channels=6,
    )
    check(program)


@pytest.mark.parametrize("outputs", [1, 5, 8])
def test_a_result_with_positions(outputs):
    """It is floats, whatever the number of classes."""
    operations = (
        Convolution("stem", 0, 1, normal(3, 3, 3, 6), normal(6), activation="relu", strides=(2, 2)),
        Convolution("logits", 1, 2, normal(3, 3, 6, outputs), normal(outputs)),
    )
    for shape in SHAPES:
        logits, wanted = in_int8(program_of_operations(operations, 2), shape)
        assert logits.shape == wanted.shape
        assert np.abs(logits - wanted).max() <= 0.02 * np.abs(wanted).max()  # a byte may be the next one
        assert np.median(np.abs(logits - wanted)) <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 60, 4), (1, 4, 4), (1, 16, 7)])
def test_rows_of_less_than_half_a_vector(shape, threads):
    """Planes that end where their last row does have others right behind them."""
    operations = (
        Convolution("stem", 0, 1, normal(3, 3, 3, 160), normal(160), activation="relu"),
        Convolution("more", 1, 2, normal(3, 3, 160, 160) / 9, normal(160), activation="relu"),
        Convolution("logits", 2, 3, normal(1, 1, 160, 8), normal(8)),
    )
    logits, wanted = in_int8(program_of_operations(operations, 3), shape, threads=threads)
    assert np.abs(logits - wanted).max() <= 0.02 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    """Close to the model of NumPy, with banks as they are stored, and near to float32."""
    program = network(name)[2]
    logits, wanted = in_int8(program, (3, 65, 96), threads=2)
    exact = Engine(program, **PIXELS, threads=2, storage="float32", arithmetic="float32")(images(3, 65, 96))
    spread = np.abs(exact - exact.mean(0)).max()
    assert np.abs(logits - wanted).max() <= 0.05 * spread
    assert np.abs(logits - exact).max() <= 0.5 * spread


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_stored_banks_are_rounded_when_they_have_been_fused(storage):
    program = one_convolution(True, "groups", outputs=8, activation="relu")
    exact, _ = in_int8(program, (2, 9, 12))
    logits, _ = in_int8(program, (2, 9, 12), storage=storage)
    assert 0 < np.abs(logits - exact).max() <= 0.05 * np.abs(exact).max()


def test_maps_that_are_constant():
    """Of zeros, and of one number: a step of zero would divide by it."""
    program = after_a_stem(
        Convolution("zeros", 1, 2, np.zeros((1, 1, 4, 4), np.float32), np.zeros(4, np.float32)),
        Convolution("threes", 2, 3, np.zeros((3, 3, 4, 4), np.float32), np.full(4, 3, np.float32), activation="relu"),
        Convolution("sum", 3, 4, normal(3, 3, 4, 4), normal(4), residual=2),
    )
    check(program)


def test_bytes_of_a_range():
    assert Bytes.of_range(0.0, 6.0) == (6 / 255, 0)
    assert Bytes.of_range(2.0, 4.0).zero == 0  # zero is in every range
    signed = Bytes.of_range(-3.0, 1.0)
    numbers = np.float32([-3, -1, 0, 0.5, 1])
    np.testing.assert_allclose(signed.numbers(signed.quantized(numbers)), numbers, atol=signed.step / 2 + 1e-6)
    assert signed.numbers(np.uint8([signed.zero])) == 0
    assert Bytes.of_range(0.0, 1e-36) == Bytes.of_range(0.0, 0.0) == (1, 0)  # float32 has no reciprocal of such a step


def test_ranges_leave_out_what_is_rare():
    """One number of a thousand times the others would leave them a byte or two."""
    kernel = np.zeros((1, 1, 3, 4), np.float32)
    kernel[..., 0, :] = 1
    program = program_of_operations(
        (
            Convolution("stem", 0, 1, kernel, np.zeros(4, np.float32), activation="relu"),
            Convolution("logits", 1, 2, normal(1, 1, 4, 2), normal(2)),
        ),
        2,
    )
    usual = Preprocessing(8, 8, (0, 0, 0), (255, 1, 1))
    photographs = np.random.default_rng(0).integers(0, 250, (16, 40, 40, 3), np.uint8)
    (low, high) = find_ranges(program, usual, [photographs])[1]
    assert low == 0
    assert high == pytest.approx(249 / 255, rel=0.05)


def test_samples_are_of_all_channels():
    """Of 18 channels of 112x112, every 441st number would be of two."""
    for height, width, channels in ((112, 112, 18), (14, 14, 162), (7, 10, 15), (1, 1, 1), (5, 8, 3)):
        chosen = _spread(height * width * channels)
        assert len(set(chosen)) == len(chosen) == min(SAMPLES, height * width * channels)
        assert len(set(chosen % channels)) == channels
        assert len(set(chosen // channels // width)) == height


def test_what_cannot_be_in_int8():
    pooled = program_of_operations(
        (
            MaxPool("pool", 0, 1, 2, 2, "SAME"),
            Convolution("logits", 1, 2, normal(1, 1, 3, 2), normal(2)),
        ),
        2,
    )
    with pytest.raises(UserError, match=r"no pooling of images, in int8 arithmetic \(pool\)"):
        find_ranges(pooled, PREPROCESSING, [images(1, 8, 8)])
    deep = Convolution("deep", 0, 1, np.ones((1, 1, 66400, 1), np.float32), normal(1))
    with pytest.raises(UserError, match=r"outputs sum more than 66,311 products, in int8 arithmetic \(deep\)"):
        pack_rows(deep, requantization(deep, Bytes(1.0, 0), None, None))
    program = one_convolution(False, "number")
    with pytest.raises(UserError, match="needs images to choose the ranges of its maps by, and there are none"):
        find_ranges(program, PREPROCESSING, [])
    stem, *others = program.operations
    diverged = program._replace(operations=(stem._replace(bias=np.full(4, np.nan, np.float32)), *others))
    with pytest.raises(UserError, match="is not finite on the calibration images: the training has diverged"):
        find_ranges(diverged, PREPROCESSING, [images(1, 8, 8)])
    with pytest.raises(UserError, match="needs the ranges of all maps of the network"):
        InferenceModel(program, PREPROCESSING, runtime="native", arithmetic="int8")
    with pytest.raises(UserError, match="int8 arithmetic is the native engine's; use runtime='native'"):
        InferenceModel(program, PREPROCESSING, runtime="jax", arithmetic="int8")


@pytest.mark.slow
def test_a_work_directory_in_int8(tmp_path, capsys):
    """Calibrated on a folder, or on the images of its training; evaluated as it is deployed."""
    classes = [str(number) for number in range(10)]
    workdir = str(make_workdir(tmp_path / "run", classes, size=16, resize_to=16, dataset="digits"))
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(images(4, 20, 30)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    folder, picture = str(tmp_path / "pictures"), str(tmp_path / "pictures/0.png")
    tops = []
    for options in ([], ["--arithmetic=int8"], ["--arithmetic=int8", f"--calibrate={folder}"]):
        assert main(["predict", workdir, picture, "--json", *options]) == 0
        tops.append({top["class"]: top["probability"] for top in json.loads(capsys.readouterr().out)["top"]})
    assert tops[1] != tops[0] != tops[2]  # not the same numbers: these weights have not been trained
    exact, deployed = (
        load(workdir, runtime="native", **options).logits(images(1, 16, 16))
        for options in ({}, {"arithmetic": "int8", "calibrate": folder})
    )
    assert 0 < np.abs(exact - deployed).max() < np.abs(exact).max()
    values = []
    for options in ([], ["--arithmetic=float32"], ["--arithmetic=int8"]):
        assert main(["evaluate", workdir, "--json", *options]) == 0
        values.append(json.loads(capsys.readouterr().out))
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert values[2]["examples"] == 359
    assert values[2]["loss"] != values[0]["loss"]
    assert values[2]["loss"] == pytest.approx(values[0]["loss"], rel=0.1)


def test_images_for_calibration_that_are_not_there(tmp_path, capsys):
    workdir = str(make_workdir(tmp_path / "run", ["a", "b"], size=16, resize_to=16, dataset="folder:/nowhere"))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for options, wrong in (
        (["--arithmetic=int8"], "those of the training are not here"),
        (["--arithmetic=int8", f"--calibrate={tmp_path / 'none'}"], f"there is no image {tmp_path / 'none'}"),
        (["--arithmetic=int8", f"--calibrate={tmp_path / 'empty'}"], f"there are no images in {tmp_path / 'empty'}"),
        ([f"--calibrate={tmp_path}"], "images for calibration are for int8 arithmetic, not for float32"),
    ):
        assert main(["predict", workdir, str(tmp_path / "a.png"), *options]) == 2
        assert wrong in capsys.readouterr().err
    assert main(["evaluate", workdir, f"--calibrate={tmp_path}"]) == 2
    assert "images for calibration are for int8 arithmetic; add --arithmetic=int8" in capsys.readouterr().err
    with pytest.raises(UserError, match="int8 arithmetic is the native engine's"):  # before images are looked for
        load(workdir, runtime="jax", arithmetic="int8")
