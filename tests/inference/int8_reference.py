"""A network in int8 arithmetic, in NumPy, written from its definition: what the engine is held against."""

import numpy as np

from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import Bytes, byte_maps
from dynet_jax.inference.native.lower import lower
from dynet_jax.inference.program import Channels, Convolution, Dense, Elementwise, MaxPool, Mean, Predictor
from dynet_jax.ops.window import fixed_padding, pool_padding

ACTIVATIONS = {
    None: lambda v: v,
    "identity": lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "relu6": lambda v: np.clip(v, 0, 6),
    "hard_swish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
    "hard_sigmoid": lambda v: np.clip(v + 3, 0, 6) / 6,
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "silu": lambda v: v / (1 + np.exp(-v)),
}


def int8_logits(program, ranges, images, mean, std):
    """Logits of images of bytes, one by one: a dynamic network has kernels of its own for each."""
    program = lower(program, "int8")
    coded = {value: Bytes.of_range(*ranges[value]) for value in byte_maps(program)}
    mean, std = (np.asarray(numbers, np.float32).astype(np.float64) for numbers in (mean, std))
    return np.stack([_one(program, coded, image.astype(np.float64), mean, std) for image in images])


def _one(program, coded, image, mean, std):
    values = {0: (image - mean) / std}

    def numbers(value):
        x = values[value]
        return (x - float(coded[value].zero)) * np.float64(coded[value].step) if value in coded else x

    def give(value, result):
        if value in coded:
            step, zero = coded[value]
            result = np.clip(np.rint(result / step + zero), 0, 255)
        values[value] = result

    for op in program.operations:
        if isinstance(op, Predictor):
            give_coefficients(op, numbers(op.x), values)
        elif isinstance(op, Convolution):
            kernel = op.kernel
            if isinstance(kernel, Bank):
                kernel = np.einsum(
                    "g...o,go->...o",
                    kernel.dequantized,
                    np.broadcast_to(values[op.coefficients], (len(kernel.kernels), kernel.shape[-1])),
                )
            if op.x == 0 and _is_of_pixels(program):  # which are bytes already; padding is the one next to the mean
                kernel, middle = in_steps(kernel / std[:, None]), np.rint(mean)
                y = convolution(image - middle, kernel, op) + np.einsum("hwio,i->o", kernel, middle - mean)
            else:
                y = convolution(numbers(op.x), in_steps(kernel) if op.x in coded else kernel, op)
            y = y + op.bias
            y = y if op.residual is None else y + numbers(op.residual)
            give(op.y, ACTIVATIONS[op.activation](y))
        elif isinstance(op, Mean):
            values[op.y] = _mean(numbers(op.x))
        elif isinstance(op, Dense):
            values[op.y] = ACTIVATIONS[op.activation](numbers(op.x) @ op.kernel + op.bias)
        elif isinstance(op, Elementwise):
            inputs = [numbers(value) for value in op.inputs]
            function = {"add": np.add, "multiply": np.multiply}.get(op.function)
            give(op.y, function(*inputs) if function else ACTIVATIONS[op.function](*inputs))
        elif isinstance(op, MaxPool):
            values[op.y] = pooled(values[op.x], op)
        elif isinstance(op, Channels):
            x = np.concatenate([values[value] for value in op.inputs], axis=-1)[..., op.start : op.stop]
            values[op.y] = x if op.permutation is None else x[..., list(op.permutation)]
    return values[program.result]


def _is_of_pixels(program):
    readers = [op for op in program.operations if 0 in op.inputs]
    return all(
        isinstance(op, Convolution) and not isinstance(op.kernel, Bank) and op.kernel.shape[2] == 3 for op in readers
    )


def in_steps(kernel):
    """Whole numbers of -127 to 127, for each output in steps of its own."""
    steps = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    return np.rint(kernel / np.where(steps > 0, steps, 1)) * steps


def _mean(x):
    return x.mean((0, 1)) if x.ndim == 3 else x


def give_coefficients(op, x, values):
    y = _mean(x)
    y = y if op.limits is None else np.clip(y, *op.limits)
    y = y if op.hidden is None else np.maximum(y @ op.hidden[0] + op.hidden[1], 0)
    logits, start = y @ op.output[0] + op.output[1], 0
    for value, features in zip(op.ys, op.features):
        part = logits[start : start + op.group_size * features].reshape(op.group_size, features)
        start += op.group_size * features
        powers = np.exp(part - part.max(0))
        values[value] = 1 / (1 + np.exp(-part)) if op.activation == "sigmoid" else powers / powers.sum(0)


def same_padding(size, reach, strides):
    """As TensorFlow has it: as much as is needed, the odd one behind."""
    missing = [max(0, (-(-n // s) - 1) * s + r - n) for n, r, s in zip(size, reach, strides)]
    return [(m // 2, m - m // 2) for m in missing]


def convolution(x, kernel, op):
    rows, columns, inputs, c_out = kernel.shape
    reach = [d * (k - 1) + 1 for k, d in zip((rows, columns), op.kernel_dilation)]
    padding = same_padding(x.shape[:2], reach, op.strides) if op.padding == "SAME" else fixed_padding(op.padding, reach)
    x = np.pad(x, [*padding, (0, 0)])
    height, width = ((size - r) // s + 1 for size, r, s in zip(x.shape, reach, op.strides))
    y, groups = np.zeros((height, width, c_out)), op.feature_group_count
    for i in range(rows):
        for j in range(columns):
            top, left = i * op.kernel_dilation[0], j * op.kernel_dilation[1]
            part = x[
                top : top + (height - 1) * op.strides[0] + 1 : op.strides[0],
                left : left + (width - 1) * op.strides[1] + 1 : op.strides[1],
            ]
            part = part.reshape(height, width, groups, inputs)
            own = kernel[i, j].reshape(inputs, groups, c_out // groups)
            y += np.einsum("hwgi,igo->hwgo", part, own).reshape(height, width, c_out)
    return y


def pooled(x, op):
    padding = pool_padding(op.padding, op.size)
    padding = (
        same_padding(x.shape[:2], (op.size,) * 2, (op.strides,) * 2)
        if padding == "SAME"
        else fixed_padding(padding, (op.size,) * 2)
    )
    x = np.pad(x, [*padding, (0, 0)])  # zero is the least byte
    height, width = ((size - op.size) // op.strides + 1 for size in x.shape[:2])
    windows = np.lib.stride_tricks.sliding_window_view(x, (op.size, op.size), axis=(0, 1))
    return windows[:: op.strides, :: op.strides][:height, :width].max((-2, -1))
