"""Every operation of programs on the native engine, in both arithmetics, and what it says where it cannot."""

import numpy as np
import pytest

from dynet_jax.errors import UserError
from dynet_jax.inference import InferenceModel, Preprocessing
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.native.engine import Engine
from dynet_jax.inference.program import (
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Normalization,
    Predictor,
)
from tests.inference.networks import assert_same
from tests.inference.operations import (
    CONVOLUTIONS,
    after_a_stem,
    every_other_operation,
    in_float64,
    normal,
    one_convolution,
    whole_numbers,
)
from tests.inference.test_programs import needs_compiler

pytestmark = needs_compiler
ACTIVATIONS = ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu")
PADDINGS = {"same_lower": "SAME_LOWER", "circular": "CIRCULAR", "reflect": "REFLECT"}  # that the engine has not
in_both = pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])


def engine(program, arithmetic="float32", threads=2):
    return Engine(program, mean=(1, 1, 1), std=(1, 1, 1), threads=threads, storage="float32", arithmetic=arithmetic)


def pixels(*shape):
    """Few and small numbers, which stay whole when they are normalised."""
    return np.random.default_rng(shape).integers(0, 4, (*shape, 3)).astype(np.uint8)


def check(program, arithmetic="float32", shapes=((2, 9, 12), (1, 10, 7), (5, 8, 8)), tolerance=1e-5):
    """The default tolerance, where only whole numbers are before the mean, is for bfloat16 too."""
    native = engine(program, arithmetic)
    for shape in shapes:
        assert_same(native(pixels(*shape)), in_float64(program, pixels(*shape) - 1.0), tolerance)


def rounded(arithmetic):
    """The tolerance, where other numbers than whole ones are."""
    return 1e-5 if arithmetic == "float32" else 0.01


@pytest.mark.slow
@in_both
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_convolution(case, dynamic, arithmetic):
    outputs = 4 if case == "depthwise" and arithmetic == "bfloat16" else 8
    program = one_convolution(dynamic, case, exact=True, outputs=outputs, activation="relu")
    if case in PADDINGS:
        with pytest.raises(UserError, match=rf"no convolution with padding '{PADDINGS[case]}' \(static\); use runtime"):
            engine(program, arithmetic)
    else:
        check(program, arithmetic, ((2, 9, 12), (1, 10, 7), (1, 33, 47)))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", sorted(CONVOLUTIONS.keys() - PADDINGS))
def test_convolutions_of_other_numbers(case, dynamic):
    check(one_convolution(dynamic, case))


@pytest.mark.slow
def test_every_other_operation():
    check(every_other_operation())


@pytest.mark.slow
@in_both
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_maps_and_vectors(activation, arithmetic):
    program = after_a_stem(
        Convolution("inside", 1, 2, normal(1, 1, 4, 6), normal(6), activation=activation),
        Elementwise("alone", (2,), 3, activation),
        Mean("mean", 3, 4, keep_positions=False),
        Dense("linear", 4, 5, normal(6, 18), normal(18), activation),
        Elementwise("vector", (5,), 6, activation),
        channels=18,
    )
    check(program, arithmetic, tolerance=rounded(arithmetic))


@in_both
@pytest.mark.parametrize("padding", ["SAME", "VALID", "TORCH", ((0, 1), (1, 0))])
@pytest.mark.parametrize(("size", "strides"), [(2, 1), (2, 2), (3, 1), (3, 2), (4, 3)])
def test_pooling(size, strides, padding, arithmetic):
    check(after_a_stem(MaxPool("pool", 1, 2, size, strides, padding)), arithmetic)


@pytest.mark.slow
@in_both
def test_channels_of_maps(arithmetic):
    more = 7 if arithmetic == "float32" else 6
    program = after_a_stem(
        Convolution("more", 1, 2, whole_numbers()(1, 1, 4, more), np.zeros(more, np.float32)),
        Channels("together", (1, 2, 1), 3, 0, 14),
        Channels("some", (3,), 4, 3, 9, (5, 0, 2, 1, 4, 3)),
        Channels("with the image", (4, 0, 0), 5, 1, 11),
        channels=10,
    )  # fmt: skip
    check(program, arithmetic)


@pytest.mark.slow
@in_both
def test_channels_of_vectors(arithmetic):
    """Odd numbers of them, too: a vector has no pairs."""
    program = after_a_stem(
        Mean("one", 1, 2, keep_positions=False),
        Mean("image", 0, 3, keep_positions=False),
        Channels("together", (2, 3), 4, 0, 7),
        Channels("some", (4,), 5, 1, 6, (4, 0, 2, 1, 3)),
        Dense("linear", 5, 6, normal(5, 5), normal(5)),
        Channels("all", (6, 5), 7, 0, 10),
        channels=10,
    )
    *kept, _, last = program.operations
    check(program._replace(operations=(*kept, last._replace(x=7))), arithmetic)


POOLED = Mean("pooled", 1, 2, keep_positions=True)
VECTORS = {
    "residual": lambda: [Convolution("c", 1, 3, normal(3, 3, 4, 4), normal(4), residual=2, activation="relu")],
    "residual_silu": lambda: [Convolution("c", 1, 3, normal(3, 3, 4, 4), normal(4), residual=2, activation="silu")],
    "residual_of_dynamic": lambda: [
        Predictor("p", 2, (4,), None, (normal(4, 12), normal(12)), 3, (4,), "sigmoid"),
        Convolution("c", 1, 3, Bank(normal(3, 3, 3, 4, 4)), normal(4), coefficients=4, residual=2, activation="relu"),
    ],
    "map_to_vector": lambda: [Convolution("c", 2, 3, normal(1, 1, 4, 4), normal(4), residual=1, activation="relu6")],
    "vector_to_vector": lambda: [Convolution("c", 2, 3, normal(1, 1, 4, 4), normal(4), residual=2, activation="relu")],
    "gate": lambda: [Elementwise("gate", (2, 1), 3, "multiply")],
    "sum": lambda: [Elementwise("sum", (1, 2), 3, "add")],
    "mean": lambda: [Mean("again", 2, 4, keep_positions=True), Elementwise("sum", (1, 4), 3, "add")],
}


@pytest.mark.slow
@in_both
@pytest.mark.parametrize("case", VECTORS)
def test_vectors_with_maps(case, arithmetic):
    check(after_a_stem(POOLED, *VECTORS[case]()), arithmetic, tolerance=rounded(arithmetic))


def halved(*after):
    """Two maps, 2 and 3, which are alike if the sizes of the images are even, and what is done with them."""
    return after_a_stem(
        Convolution("up", 1, 2, whole_numbers()(3, 3, 4, 4), np.zeros(4, np.float32), strides=(2, 2)),
        MaxPool("down", 1, 3, 2, 2, "VALID"),
        *after,
        channels=8 if isinstance(after[-1], Channels) else 4,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "after",
    [
        Elementwise("sum", (2, 3), 4, "add"),
        Elementwise("product", (2, 3), 4, "multiply"),
        Channels("together", (2, 3), 4, 0, 8),
        Convolution("residual", 2, 4, whole_numbers()(1, 1, 4, 4), np.zeros(4, np.float32), residual=3),
    ],
    ids=lambda operation: operation.name,
)
def test_maps_of_different_sizes(after):
    program = halved(after)
    check(program, shapes=((1, 8, 12), (4, 2, 2)))
    native = engine(program)
    for shape in ((1, 9, 12), (5, 8, 11)):
        with pytest.raises(
            UserError, match=rf"of images of {shape[1]}x{shape[2]} this network takes maps of different"
        ):
            native(pixels(*shape))
    assert_same(native(pixels(1, 8, 8)), in_float64(program, pixels(1, 8, 8) - 1.0), 1e-5)


def test_images_that_are_too_small():
    program = after_a_stem(
        Convolution("c", 1, 2, whole_numbers()(3, 3, 4, 4), np.zeros(4, np.float32), strides=(2, 2), padding="VALID")
    )
    check(program, shapes=((1, 3, 3), (2, 3, 9)))
    for size in ((2, 2), (2, 9), (0, 0)):
        with pytest.raises(UserError, match=f"images of {size[0]}x{size[1]} are too small for this network"):
            engine(program)(pixels(1, *size))
        with pytest.raises(UserError, match="too small" if all(size) else "must be"):
            engine(program).profile(pixels(1, *size))


COEFFICIENTS = Predictor("p", 1, (2,), None, (normal(4, 12), normal(12)), 3, (4,), "sigmoid")
DYNAMIC = Convolution("c", 1, 4, Bank(normal(3, 3, 3, 4, 4)), normal(4), coefficients=3)
UNKNOWN = {
    "relu of coefficients": [COEFFICIENTS, Elementwise("r", (2,), 3, "relu"), DYNAMIC],
    "choice of channels of coefficients": [COEFFICIENTS, Channels("r", (2, 2), 3, 0, 4), DYNAMIC],
    "convolution by coefficients that are not a predictor's": [Mean("r", 1, 3, False), DYNAMIC],
    "convolution on a map of one position": [POOLED, Convolution("r", 2, 3, normal(3, 3, 4, 4), normal(4))],
    "pooling of a map of one position": [POOLED, MaxPool("r", 2, 3, 2, 1, "SAME")],
    "pooling with padding 'SAME_LOWER'": [MaxPool("r", 1, 3, 2, 1, "SAME_LOWER")],
    "pooling of windows that see nothing but padding": [MaxPool("r", 1, 3, 2, 1, ((2, 0), (0, 0)))],
    "choice of channels of a map and of a vector": [POOLED, Channels("r", (1, 2), 3, 0, 4)],
    "normalization": [Normalization("r", 1, 3, np.ones(4, np.float32), np.ones(4, np.float32))],
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_there_is_not(what):
    with pytest.raises(UserError, match=rf"the native engine has no {what} \([rc]\); use runtime='jax'"):
        engine(after_a_stem(*UNKNOWN[what]))


def test_an_odd_number_of_channels_is_not_of_pairs():
    with pytest.raises(UserError, match="that leaves an odd number of them, in bfloat16 arithmetic"):
        engine(after_a_stem(Channels("r", (1,), 2, 0, 3), channels=3), "bfloat16")


def test_the_result_must_be_that_of_the_classifier():
    program = after_a_stem(POOLED)
    for wrong in (program._replace(result=98), program._replace(operations=program.operations[:-1], result=98)):
        with pytest.raises(UserError, match="runs networks that end with a layer for classes"):
            engine(wrong)


def test_jax_is_used_for_what_there_is_not(capsys):
    program = after_a_stem(Convolution("large", 1, 3, normal(17, 17, 4, 4), normal(4)))
    model = InferenceModel(program, Preprocessing(8, 8, (1.0,) * 3, (1.0,) * 3), runtime="auto")
    assert model.runtime == "jax"
    assert "the native engine has no convolution with kernels of 17x17" in capsys.readouterr().err
    assert_same(model.logits(pixels(1, 8, 8)), in_float64(program, pixels(1, 8, 8) - 1.0), 1e-5)


ONE = np.ones(4, np.float32)
WITH_NAN = {
    **{f"{a}_inside": [Convolution("c", 1, 2, whole_numbers()(3, 3, 4, 4), ONE, activation=a)] for a in ACTIVATIONS},
    **{f"{a}_alone": [Elementwise("e", (1,), 2, a)] for a in ACTIVATIONS},
    **{f"{a}_of_vector": [POOLED, Elementwise("e", (2,), 3, a)] for a in ACTIVATIONS},
    **{f"pool_{size}_{strides}": [MaxPool("m", 0, 2, size, strides, "SAME")] for size in (2, 3) for strides in (1, 2)},
    **{
        f"predictor_{kind}": [
            Mean("m", 1, 9, keep_positions=True),
            Predictor("p", 9, (2,), (normal(4, 6), normal(6)), (normal(6, 3), normal(3)), 3, (1,), kind),
            Convolution("c", 1, 3, Bank(normal(3, 1, 1, 4, 4)), ONE, coefficients=2, activation="relu"),
        ]
        for kind in ("sigmoid", "softmax")
    },
}


@in_both
@pytest.mark.parametrize("case", WITH_NAN)
def test_nan_is_not_lost(case, arithmetic):
    """Wherever it is in the image, and whatever it is compared with; and it is gone with the image."""
    program = after_a_stem(*WITH_NAN[case], channels=3 if case.startswith("pool") else 4)  # of the image: one NaN alone
    native, image = engine(program, arithmetic), pixels(1, 8, 9).astype(np.float32)
    before = native(image)
    assert np.isfinite(before).all()
    for row, column in ((0, 0), (3, 3), (3, 4), (4, 5), (7, 8)):
        spoiled = image.copy()
        spoiled[0, row, column] = np.nan
        assert np.isnan(native(spoiled)).all(), (row, column)
    np.testing.assert_array_equal(native(image), before)


@in_both
def test_nan_in_weights(arithmetic):
    kernel = whole_numbers()(3, 3, 4, 4)
    kernel[1, 1, 2, :] = np.nan
    program = after_a_stem(Convolution("c", 1, 2, kernel, ONE, activation="relu6"))
    assert np.isnan(engine(program, arithmetic)(pixels(3, 8, 9))).all()
