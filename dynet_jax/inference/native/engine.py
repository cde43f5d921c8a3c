"""A program on the native engine."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import Ranges, bytes_of
from dynet_jax.inference.native.library import (
    ConvolutionArguments,
    LinearArguments,
    QuadConvolutionArguments,
    address,
    check,
    load,
)
from dynet_jax.inference.native.lower import lower
from dynet_jax.inference.native.pack import STORAGE, pack_kernel, pack_linear
from dynet_jax.inference.native.quads import CLIPPED, for_raw_pixels, pack_rows, padding_of, requantization
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Predictor,
    Program,
    outputs,
)
from dynet_jax.ops.window import Padding, fixed_padding, pool_padding

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hard_swish": 3, "hard_sigmoid": 4, "sigmoid": 5, "silu": 6}
FUNCTIONS = ACTIVATIONS | {"identity": 0, "add": -1, "multiply": -2}
SAME, EXPLICIT = [1, 0, 0, 0, 0], 0


class Engine:
    """Runs a program on images [batch, height, width, 3], uint8 or float32 from 0 to 255, of any size.

    storage: of what is read once per image: banks, predictors and the classifier (see `Bank`).
    arithmetic: 'float32', or 'bfloat16' for maps and kernels, whose products are summed in float32, or 'int8', with the
      `ranges` of maps that `find_ranges` gives. Vectors, and so coefficients and logits, are float32 always.
    A batch of less than two images per thread goes image by image, each by all threads; a larger one by images.
    Threads of the caller may call it at once, and wait for each other. After a fork it starts threads of its own; a
    copy, or what is unpickled, is built anew from the program.

    Raises UserError if the program has something that the engine has not, or there is no compiler for it.
    """

    def __init__(
        self,
        program: Program,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        threads: int,
        storage: str,
        arithmetic: str,
        ranges: Ranges | None = None,
    ):
        options = {"mean": mean, "std": std, "threads": threads, "storage": storage, "arithmetic": arithmetic}
        self._made_from = options | {"ranges": ranges}, program
        self._library = load()
        self._kept: list = []  # arrays that the engine reads
        self._storage = storage
        self._paired = arithmetic == "bfloat16"
        self.program = program = lower(program, arithmetic)
        self._bytes = bytes_of(program, ranges) if arithmetic == "int8" else {}
        self._normalization = mean, std
        values = 1 + max(value for operation in program.operations for value in outputs(operation))
        pixels = np.asarray(mean, np.float32), np.float32(1) / np.asarray(std, np.float32)
        packed = 4 if IMAGES in self._bytes else 2 if self._paired else 1
        self._engine = ctypes.c_void_p()
        made = self._library.dynet_new(ctypes.byref(self._engine), threads, values, packed, *map(self._pointer, pixels))
        check(made, f"an engine of {threads} threads")
        for operation in program.operations:
            check(_ADD[type(operation)](self, operation), "the network")

    def __call__(
        self, images: Shaped[np.ndarray, "batch height width 3"]
    ) -> Float32[np.ndarray, "batch *positions classes"]:
        """Logits, at positions (height / stride, width / stride) of a program ending in a map.

        Raises UserError for images that are smaller than the network's stride, or for which there is no memory, and
        where they are made bytes for pixels that are not numbers.
        """
        images, is_bytes = _pixels(images)
        if IMAGES in self._bytes and not is_bytes and np.isnan(images).any():
            raise UserError("int8 arithmetic needs images of numbers, and these have NaN")
        batch, height, width, _ = images.shape
        y = np.empty((batch, *self._shape_of_result(height, width)), np.float32)
        outputs = int(np.prod(y.shape[1:]))
        status = self._library.dynet_run(
            self._engine, address(images), is_bytes, batch, height, width, address(y), outputs
        )
        check(status, f"images of {height}x{width}")
        return y

    def profile(self, image: Shaped[np.ndarray, "1 height width 3"]) -> Float64[np.ndarray, " times"]:
        """Seconds of every operation of `program` for one image, and of all fusions, which are a part of the
        predictors'. Raises UserError as a call does."""
        image, is_bytes = _pixels(image)
        _, height, width, _ = image.shape
        y, times = (
            np.empty(self._shape_of_result(height, width), np.float32),
            np.zeros(len(self.program.operations) + 1),
        )
        status = self._library.dynet_profile(
            self._engine, address(image), is_bytes, height, width, address(y), address(times)
        )
        check(status, f"images of {height}x{width}")
        return times

    def _shape_of_result(self, height: int, width: int) -> tuple[int, ...]:
        shape = np.empty(3, np.int32)
        check(self._library.dynet_shape(self._engine, height, width, address(shape)), f"images of {height}x{width}")
        channels, *size = map(int, shape)
        return (*size, channels) if size[0] else (channels,)

    def __reduce__(self):
        options, program = self._made_from
        return functools.partial(Engine, **options), (program,)

    def __del__(self):
        if getattr(self, "_engine", None):
            self._library.dynet_delete(self._engine)

    def _convolution(self, op: Convolution) -> int:
        if op.x in self._bytes:
            return self._quad_convolution(op)
        panels = pack_kernel(self._stored(op), op.feature_group_count, paired=self._paired)
        arguments = ConvolutionArguments(
            **self._common(op, ACTIVATIONS[op.activation]),
            mode=panels.mode,
            count=len(panels.blocks),
            weights=self._pointer(panels.weights),
            scales=self._pointer(panels.scales),
            bias=self._pointer(op.bias),
            blocks=self._pointer(panels.blocks),
            panels=panels.elements,
        )
        return self._library.dynet_convolution(self._engine, arguments)

    def _quad_convolution(self, op: Convolution) -> int:
        op = for_raw_pixels(op, *self._normalization) if op.x == IMAGES else op._replace(kernel=self._stored(op))
        residual = None if op.residual is None else self._bytes[op.residual]
        requantized = requantization(op, self._bytes[op.x], self._bytes.get(op.y), residual)
        rows = pack_rows(op, self._library.dynet_quad_words(), requantized)
        arguments = QuadConvolutionArguments(
            **self._common(op, 0 if op.activation in CLIPPED else ACTIVATIONS[op.activation]),
            to_floats=op.y not in self._bytes,
            row=rows.row,
            quads=rows.quads,
            unit=rows.unit,
            padding=padding_of(None if op.x == IMAGES else self._bytes[op.x], self._normalization[0]),
            weights=self._pointer(rows.weights),
            scales=self._pointer(rows.scales),
            bias=self._pointer(rows.bias),
            requantization=requantized,
        )
        return self._library.dynet_quad_convolution(self._engine, arguments)

    def _stored(self, op: Convolution) -> np.ndarray | Bank:
        return op.kernel.stored_as(self._storage) if isinstance(op.kernel, Bank) else op.kernel

    def _common(self, op: Convolution, activation: int) -> dict[str, Any]:
        """What both structures of arguments begin with."""
        height, width, inputs, c_out = op.kernel.shape
        window = _window((height, width), op.strides, op.kernel_dilation, op.padding)
        channels = inputs * op.feature_group_count, c_out, op.feature_group_count
        return {
            "geometry": (ctypes.c_int32 * 15)(*channels, *window, activation),
            "x": op.x,
            "y": op.y,
            "coefficients": -1 if op.coefficients is None else op.coefficients,
            "residual": -1 if op.residual is None else op.residual,
            "shared": op.coefficients is not None and self.program.values[op.coefficients].channels == 1,
            "group_size": len(op.kernel.kernels) if isinstance(op.kernel, Bank) else 0,
            "storage": STORAGE[self._storage if isinstance(op.kernel, Bank) else "float32"],
        }

    def _predictor(self, op: Predictor) -> int:
        hidden = None if op.hidden is None else self._linear(*op.hidden)
        ys, features = self._numbers(op.ys), self._numbers(op.features)
        softmax = op.activation == "softmax"
        limits = None if op.limits is None else self._pointer(np.stack(op.limits).astype(np.float32))
        output = self._linear(*op.output)
        return self._library.dynet_predictor(
            self._engine, op.x, ys, features, len(op.ys), op.group_size, softmax, hidden, output, limits
        )

    def _dense(self, op: Dense) -> int:
        arrays = self._linear(op.kernel, op.bias)
        return self._library.dynet_dense(self._engine, op.x, op.y, arrays, ACTIVATIONS[op.activation])

    def _mean(self, op: Mean) -> int:
        return self._library.dynet_mean(self._engine, op.x, op.y)

    def _elementwise(self, op: Elementwise) -> int:
        inputs = self._numbers(op.inputs)
        step, zero = self._bytes.get(op.y, (1.0, 0))
        function, quads = FUNCTIONS[op.function], op.y in self._bytes
        return self._library.dynet_elementwise(self._engine, inputs, len(op.inputs), op.y, function, quads, step, zero)

    def _max_pool(self, op: MaxPool) -> int:
        size = (op.size, op.size)
        window = _window(size, (op.strides, op.strides), (1, 1), pool_padding(op.padding, op.size))
        return self._library.dynet_max_pool(self._engine, self._numbers([0, 0, 0, *window, 0]), op.x, op.y)

    def _channels(self, op: Channels) -> int:
        """Which input, and which of its channels, each channel of the result is."""
        channels = [self.program.values[value].channels for value in op.inputs]
        sources = [(number, c) for number, count in enumerate(channels) for c in range(count)][op.start : op.stop]
        sources = sources if op.permutation is None else [sources[c] for c in op.permutation]
        numbers = self._numbers([number for source in sources for number in source])
        return self._library.dynet_channels(
            self._engine, self._numbers(op.inputs), len(op.inputs), op.y, numbers, len(sources)
        )

    def _linear(self, kernel: np.ndarray, bias: np.ndarray) -> LinearArguments:
        columns = pack_linear(kernel, bias, self._storage)
        pointers = map(self._pointer, (columns.weights, columns.scales, columns.bias))
        return LinearArguments(*kernel.shape, STORAGE[self._storage], *pointers)

    def _numbers(self, values: Sequence[int]) -> int:
        return self._pointer(np.asarray(values, np.int32))  # pyrefly: ignore[bad-return]  (an array has one)

    def _pointer(self, array: np.ndarray | None) -> int | None:
        if array is None:
            return None
        self._kept.append(np.ascontiguousarray(array))
        return address(self._kept[-1])


_ADD: dict[type, Any] = {
    Convolution: Engine._convolution,
    Predictor: Engine._predictor,
    Dense: Engine._dense,
    Mean: Engine._mean,
    Elementwise: Engine._elementwise,
    MaxPool: Engine._max_pool,
    Channels: Engine._channels,
}


def _pixels(images: np.ndarray) -> tuple[np.ndarray, bool]:
    """Images as the engine reads them, and whether of bytes."""
    is_bytes = images.dtype == np.uint8
    return np.ascontiguousarray(images, np.uint8 if is_bytes else np.float32), is_bytes


def _window(size: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: Padding) -> list[int]:
    """The middle of struct Geometry; of the padding whether it is SAME, and else the numbers."""
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation)]
    sides = SAME if padding == "SAME" else [EXPLICIT, *(n for side in fixed_padding(padding, reach) for n in side)]
    return [*size, *strides, *dilation, *sides]
