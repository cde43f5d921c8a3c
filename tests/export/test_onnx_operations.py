"""Every operation of programs, in every variant, in ONNX Runtime as in JAX."""

import numpy as np
import onnx
import pytest

from dynet_jax.errors import UserError
from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Predictor,
    Program,
)
from tests.export.test_onnx import OPTIONS, assert_same, followed, images, in_runtime, logits

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


CONVOLUTIONS = {
    "strides": {"strides": (2, 2)},
    "uneven_strides": {"strides": (1, 2), "kernel_size": (3, 5)},
    "even_kernel": {"kernel_size": (2, 4)},
    "same_lower": {"padding": "SAME_LOWER", "strides": (2, 2), "kernel_size": (4, 3)},
    "valid": {"padding": "VALID", "strides": (2, 1)},
    "circular": {"padding": "CIRCULAR", "strides": (2, 2)},
    "reflect": {"padding": "REFLECT"},
    "torch": {"padding": "TORCH", "strides": (2, 2), "kernel_dilation": (2, 2)},
    "numbers": {"padding": ((0, 2), (1, 0)), "strides": (2, 2)},
    "number": {"padding": 2},
    "dilation": {"kernel_dilation": (2, 3)},
    "pointwise": {"kernel_size": (1, 1), "strides": (2, 2)},
    "groups": {"groups": 2, "kernel_dilation": (2, 1)},
    "depthwise": {"groups": 4, "strides": (2, 2)},
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_convolution(case, dynamic):
    options = {"kernel_size": (3, 3), "groups": 1, **CONVOLUTIONS[case]}
    convolution = {"feature_group_count": options.pop("groups"), "kernel_size": options.pop("kernel_size"), **options}
    program = one_convolution(dynamic, **convolution)
    runtime = in_runtime(program_to_onnx(program, **OPTIONS))
    for shape in ((2, 9, 12), (1, 10, 7)):
        assert_same(logits(runtime, images(*shape)), followed(program, images(*shape)))


def one_convolution(dynamic, kernel_size, feature_group_count, **options):
    """A stem of 4 channels, a predictor, the convolution to 8, a residual, a classifier that sees every position."""
    kernel = (*kernel_size, 4 // feature_group_count, 8)
    common = {**options, "feature_group_count": feature_group_count}
    return Program(
        (
            Convolution("stem", 0, 1, normal(3, 3, 3, 4), normal(4), activation="relu6"),
            Predictor("predictor", 1, (2,), None, (normal(4, 24), normal(24)), 3, (8,), "sigmoid"),
            Convolution("static", 1, 3, normal(*kernel), normal(8), **common),
            Convolution(
                "same", 1, 4, *(Bank(normal(3, *kernel)) if dynamic else normal(*kernel), normal(8)),
                coefficients=2 if dynamic else None, residual=3, activation="silu", **common,
            ),
            Mean("mean", 4, 5, keep_positions=False),
            Dense("logits", 5, 6, normal(8, 5), normal(5)),
        ),
        6,
    )  # fmt: skip


def test_every_other_operation():
    """Names that collide with those of inputs and outputs among them."""
    bank = Bank(normal(2, 1, 1, 6, 4))
    functions = ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu")
    activations = [Elementwise(f, (10 + i,), 11 + i, f) for i, f in enumerate(functions)]
    program = Program(
        (
            Channels("images", (0, 0), 1, 0, 6),
            Channels("shuffled", (1,), 2, 0, 6, (0, 3, 1, 4, 2, 5)),
            Channels("part", (2,), 3, 1, 4),
            Channels("rest", (1,), 4, 3, 6),
            Channels("whole", (3, 4), 5, 0, 6),
            MaxPool("pool", 5, 6, 3, 2, "SAME"),
            Predictor("softmax", 6, (7,), (normal(6, 8), normal(8)), (normal(8, 2), normal(2)), 2, (1,), "softmax"),
            Convolution("logits", 6, 8, bank, normal(4), coefficients=7),
            Mean("squeeze", 8, 9, keep_positions=True),
            Elementwise("scale", (8, 9), 10, "multiply"),
            *activations,
            MaxPool("torch", 16, 17, 2, 2, "TORCH"),
            Mean("mean", 17, 18, keep_positions=False),
            Dense("probabilities", 18, 19, normal(4, 5), normal(5), "relu"),
        ),
        19,
    )
    model = program_to_onnx(program, **OPTIONS)
    onnx.checker.check_model(model, full_check=True)
    for shape in ((3, 9, 12), (1, 16, 16)):
        assert_same(logits(in_runtime(model), images(*shape)), followed(program, images(*shape)))


def test_what_onnx_runtime_cannot_do_is_named():
    program = one_convolution(False, (3, 3), 1, strides=(2, 2), kernel_dilation=(2, 2))
    with pytest.raises(UserError, match="static has strides, dilation and padding='SAME'"):
        program_to_onnx(program, **OPTIONS)
