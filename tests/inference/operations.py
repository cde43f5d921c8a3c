"""Small programs that have every operation in every variant, for the tests of all runtimes."""

import jax
import numpy as np

from dynet_jax.inference import run_jax
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    COEFFICIENTS,
    IMAGES,
    MAP,
    VECTOR,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Predictor,
    Program,
    Value,
    outputs,
)

RNG = np.random.default_rng(3)

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


def program_of_operations(operations, result):
    """The program, with what its values are: found from the operations alone, as a recorder finds it from a trace."""
    values = {IMAGES: Value(MAP, 3)}
    for operation in operations:
        if isinstance(operation, Predictor):
            values |= {y: Value(COEFFICIENTS, n) for y, n in zip(outputs(operation), operation.features)}
            continue
        inputs = [values[value] for value in operation.inputs]
        channels = max(value.channels for value in inputs)
        if isinstance(operation, Convolution | Dense):
            channels = operation.bias.size
        if isinstance(operation, Channels):
            channels = operation.stop - operation.start
        of_map = MAP in [value.kind for value in inputs] and not isinstance(operation, Mean)
        values[operation.y] = Value(MAP if of_map else VECTOR, channels)
    return Program(tuple(operations), result, values)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def whole_numbers(seed=0):
    """Draws whole numbers, so small that sums of their products are exact in bfloat16 too."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.choice(np.float32([-1, 0, 0, 0, 1]), shape)


def one_convolution(dynamic, case, *, exact=False, outputs=8, activation="silu"):
    """A stem of 4 channels, a predictor, the convolution to 8, a residual, a classifier that sees every position.

    exact: with numbers that no arithmetic has to round before the mean.
    """
    options = {"kernel_size": (3, 3), "groups": 1, **CONVOLUTIONS[case]}
    groups, kernel_size = options.pop("groups"), options.pop("kernel_size")
    draw, common = whole_numbers() if exact else normal, {**options, "feature_group_count": groups}
    kernel = (*kernel_size, 4 // groups, outputs)
    coefficients = normal(4, 3 * outputs), normal(3 * outputs)
    if exact:  # the sigmoid is 0 or 1
        coefficients = 0 * coefficients[0], np.where(coefficients[1] > 0, np.float32(200), np.float32(-200))
    return program_of_operations(
        (
            Convolution("stem", 0, 1, draw(3, 3, 3, 4), draw(4), activation="relu6"),
            Predictor("predictor", 1, (2,), None, coefficients, 3, (outputs,), "sigmoid"),
            Convolution("static", 1, 3, draw(*kernel), draw(outputs), **common),
            Convolution(
                "same", 1, 4, *(Bank(draw(3, *kernel)) if dynamic else draw(*kernel), draw(outputs)),
                coefficients=2 if dynamic else None, residual=3, activation=activation, **common,
            ),
            Mean("mean", 4, 5, keep_positions=False),
            Dense("logits", 5, 6, normal(outputs, 5), normal(5)),
        ),
        6,
    )  # fmt: skip


def every_other_operation():
    """Names that collide with those of inputs and outputs among them."""
    bank = Bank(normal(2, 1, 1, 6, 4))
    functions = ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu")
    activations = [Elementwise(f, (10 + i,), 11 + i, f) for i, f in enumerate(functions)]
    return program_of_operations(
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


def after_a_stem(*operations, channels=4):
    """A program of a map 1 of 4 channels, of whole numbers, the operations, and a classifier of their last result.

    channels: that it has.
    """
    draw = whole_numbers(1)
    return program_of_operations(
        (
            Convolution("stem", 0, 1, draw(3, 3, 3, 4), draw(4)),
            *operations,
            Mean("mean", operations[-1].y, 98, keep_positions=False),
            Dense("logits", 98, 99, normal(channels, 5), normal(5)),
        ),
        99,
    )


def in_float64(program, normalized):
    """What the reference, JAX, makes of normalised images."""
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda array: np.asarray(array, np.float64), run_jax.arrays_of(program))
        return np.asarray(run_jax.run(program, arrays, np.asarray(normalized, np.float64)))
