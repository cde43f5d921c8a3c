"""A network as the file that the engine reads, alone or in memory: docs/native_format.md describes it byte by byte."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.int8 import Ranges, bytes_of
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
    Operation,
    Predictor,
    Program,
    outputs,
)
from dynet_jax.ops.window import Padding, fixed_padding, pool_padding

MAGIC, VERSION = b"\x93DYNET\r\n", 1
HEADER, ALIGNMENT = 64, 64
ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hard_swish": 3, "hard_sigmoid": 4, "sigmoid": 5, "silu": 6}
FUNCTIONS = ACTIVATIONS | {"identity": 0, "add": -1, "multiply": -2}
KINDS = dict(
    zip(("convolution", "quad convolution", Predictor, Dense, Mean, Elementwise, MaxPool, Channels), range(1, 9))
)


class Numbers(NamedTuple):
    """The number formats in which a network is stored and computed.

    Attributes:
      storage: of what is read once per image: banks, predictors and the classifier; 'float32', 'bfloat16' or 'int8'.
      arithmetic: of maps and kernels, of the same; vectors, and so coefficients and logits, are float32 always.
      ranges: of the maps, for int8 arithmetic.
    """

    storage: str = "float32"
    arithmetic: str = "float32"
    ranges: Ranges | None = None


def write_file(
    program: Program,
    numbers: Numbers,
    preprocessing: Preprocessing | ResizedPreprocessing,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
) -> tuple[bytes, Program]:
    """Returns the content of a file, and the program whose operations are its own.

    Raises UserError if the program has something that the engine has not.
    """
    lowered = lower(program, numbers.arithmetic)
    return _File(lowered, numbers, preprocessing).content(name, class_names), lowered


class _File:
    """The words of a file, and the arrays that they name."""

    def __init__(self, program: Program, numbers: Numbers, preprocessing: Preprocessing | ResizedPreprocessing):
        self._program, self._numbers, self._preprocessing = program, numbers, preprocessing
        self._bytes = bytes_of(program, numbers.ranges) if numbers.arithmetic == "int8" else {}
        self._words = bytearray()
        self._arrays: list[tuple[int, np.ndarray]] = []  # where the words are that name it

    def content(self, name: str, class_names: Sequence[str]) -> bytes:
        program, preprocessing = self._program, self._preprocessing
        packed = 4 if IMAGES in self._bytes else 2 if self._numbers.arithmetic == "bfloat16" else 1
        self._text(name)
        self._integers(STORAGE[self._numbers.arithmetic], STORAGE[self._numbers.storage], packed)
        self._floats(*preprocessing.mean, *preprocessing.std)
        self._integers(*_sizes(preprocessing), len(class_names))
        for class_name in class_names:
            self._text(class_name)
        values = 1 + max(value for operation in program.operations for value in outputs(operation))
        self._integers(values, program.result, len(program.operations))
        for operation in program.operations:
            self._operation(operation)
        return self._joined()

    def _joined(self) -> bytes:
        at = HEADER + len(self._words)
        parts: list[Any] = [self._words]
        for place, array in self._arrays:
            parts.append(bytes(-at % ALIGNMENT))
            at += len(parts[-1])
            struct.pack_into("<QQ", self._words, place, at, array.nbytes)
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            at += array.nbytes
        lengths = struct.pack("<QQ32x", at, len(self._words) // 4)
        checksum = zlib.crc32(lengths)
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        return b"".join([MAGIC, struct.pack("<II", VERSION, checksum), lengths, *parts])

    def _integers(self, *values: int) -> None:
        self._words += struct.pack(f"<{len(values)}i", *values)

    def _floats(self, *values: float) -> None:
        self._words += struct.pack(f"<{len(values)}f", *values)

    def _counted(self, values: Sequence[int]) -> None:
        self._integers(len(values), *values)

    def _text(self, text: str) -> None:
        encoded = text.encode()
        self._integers(len(encoded))
        self._words += encoded + bytes(-len(encoded) % 4)

    def _array(self, array: np.ndarray | None, dtype: type | None = np.float32) -> None:
        """Names an array; None of a dtype is the array's own."""
        if array is not None and array.size:
            self._arrays.append((len(self._words), array if dtype is None else np.asarray(array, dtype)))
        self._words += bytes(16)

    def _operation(self, op: Operation) -> None:
        kind: object = type(op)
        if isinstance(op, Convolution):
            kind = "quad convolution" if op.x in self._bytes else "convolution"
        self._integers(KINDS[kind])  # pyrefly: ignore[bad-index]
        self._text(op.name)
        if isinstance(op, Convolution):
            self._quad_convolution(op) if op.x in self._bytes else self._convolution(op)
        elif isinstance(op, Predictor):
            self._predictor(op)
        elif isinstance(op, Dense):
            self._integers(op.x, op.y, ACTIVATIONS[op.activation])
            self._linear(op.kernel, op.bias)
        elif isinstance(op, Mean):
            self._integers(op.x, op.y)
        elif isinstance(op, Elementwise):
            self._elementwise(op)
        elif isinstance(op, MaxPool):
            size = (op.size, op.size)
            self._window((0, 0, 0), size, (op.strides,) * 2, (1, 1), pool_padding(op.padding, op.size), 0)
            self._integers(op.x, op.y)
        elif isinstance(op, Channels):
            self._channels(op)

    def _convolution(self, op: Convolution) -> None:
        op = op._replace(kernel=self._stored(op))
        panels = pack_kernel(op.kernel, op.feature_group_count, paired=self._numbers.arithmetic == "bfloat16")
        self._common(op, ACTIVATIONS[op.activation])
        self._array(panels.weights, None)
        self._array(panels.scales)
        self._array(op.bias)
        self._integers(panels.mode)

    def _quad_convolution(self, op: Convolution) -> None:
        mean, std = self._preprocessing.mean, self._preprocessing.std
        op = for_raw_pixels(op, mean, std) if op.x == IMAGES else op._replace(kernel=self._stored(op))
        residual = None if op.residual is None else self._bytes[op.residual]
        requantized = requantization(op, self._bytes[op.x], self._bytes.get(op.y), residual)
        rows = pack_rows(op, requantized)
        self._common(op, 0 if op.activation in CLIPPED else ACTIVATIONS[op.activation])
        self._array(rows.weights, None)
        self._array(rows.scales)
        self._array(rows.bias)
        self._integers(op.y not in self._bytes)
        self._words += struct.pack("<I", padding_of(None if op.x == IMAGES else self._bytes[op.x], mean))
        self._floats(*requantized)

    def _stored(self, op: Convolution) -> np.ndarray | Bank:
        return op.kernel.stored_as(self._numbers.storage) if isinstance(op.kernel, Bank) else op.kernel

    def _common(self, op: Convolution, activation: int) -> None:
        """What convolutions of floats and of bytes begin with."""
        height, width, inputs, c_out = op.kernel.shape
        channels = inputs * op.feature_group_count, c_out, op.feature_group_count
        self._window(channels, (height, width), op.strides, op.kernel_dilation, op.padding, activation)
        self._integers(op.x, op.y, *(-1 if value is None else value for value in (op.coefficients, op.residual)))
        group_size = len(op.kernel.kernels) if isinstance(op.kernel, Bank) else 0
        self._integers(group_size, STORAGE[self._numbers.storage if group_size else "float32"])

    def _window(
        self,
        channels: Sequence[int],
        size: Sequence[int],
        strides: Sequence[int],
        dilation: Sequence[int],
        padding: Padding,
        activation: int,
    ) -> None:
        reach = [d * (k - 1) + 1 for k, d in zip(size, dilation)]
        sides = (0,) * 4 if padding == "SAME" else [n for side in fixed_padding(padding, reach) for n in side]
        self._integers(*channels, *size, *strides, *dilation, padding == "SAME", *sides, activation)

    def _predictor(self, op: Predictor) -> None:
        self._integers(op.x)
        self._counted(op.ys)
        self._counted(op.features)
        self._integers(op.group_size, op.activation == "softmax")
        self._array(None if op.limits is None else np.stack(op.limits))
        self._integers(op.hidden is not None)
        if op.hidden is not None:
            self._linear(*op.hidden)
        self._linear(*op.output)

    def _linear(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        columns = pack_linear(kernel, bias, self._numbers.storage)
        self._integers(*kernel.shape, STORAGE[self._numbers.storage])
        self._array(columns.weights, None)
        self._array(columns.scales)
        self._array(columns.bias)

    def _elementwise(self, op: Elementwise) -> None:
        self._counted(op.inputs)
        self._integers(op.y, FUNCTIONS[op.function], op.y in self._bytes)
        self._floats(*self._bytes.get(op.y, (1.0, 0)))

    def _channels(self, op: Channels) -> None:
        """Which input, and which of its channels, each channel of the result is."""
        channels = [self._program.values[value].channels for value in op.inputs]
        sources = [(number, c) for number, count in enumerate(channels) for c in range(count)][op.start : op.stop]
        sources = sources if op.permutation is None else [sources[c] for c in op.permutation]
        self._counted(op.inputs)
        self._integers(op.y)
        self._counted([number for source in sources for number in source])


def _sizes(preprocessing: Preprocessing | ResizedPreprocessing) -> tuple[int, ...]:
    """The kind of preprocessing, the size of its images, what they are resized to, and its windows."""
    if isinstance(preprocessing, Preprocessing):
        size = preprocessing.image_size
        return 1, size, size, preprocessing.resize_to, 0, 0
    return 2, *preprocessing.size, 0, *(preprocessing.window or (0, 0))
