"""A program on the native engine."""

import ctypes
import functools
from collections.abc import Sequence

import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.native.build import build
from dynet_jax.inference.native.lower import channels_of, features_of, lower
from dynet_jax.inference.native.pack import STORAGE, pack_kernel, pack_linear
from dynet_jax.inference.program import (
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
from dynet_jax.ops.window import Padding

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "hard_swish": 3, "hard_sigmoid": 4, "sigmoid": 5, "silu": 6}
FUNCTIONS = ACTIVATIONS | {"add": -1, "multiply": -2}
SAME, EXPLICIT = [1, 0, 0, 0, 0], 0


class LinearArrays(ctypes.Structure):
    """struct LinearArrays"""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("c_in", "c_out", "storage")),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "bias")),
    ]


class Engine:
    """Runs a program on images [batch, height, width, 3], uint8 or float32 from 0 to 255, of any size.

    storage: of what is read once per image: banks, predictors and the classifier (see `Bank`).
    arithmetic: 'float32', or 'bfloat16' for maps and kernels, whose products are summed in float32. Vectors, and so
      coefficients and logits, are float32 always.
    A batch of less than two images per thread goes image by image, each by all threads; a larger one by images.

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
    ):
        self._library = _library()
        self._kept: list = []  # arrays that the engine reads
        self._storage, self._features = storage, features_of(program)
        self._paired = arithmetic == "bfloat16"
        self.program = program = lower(program, paired=self._paired)
        self._channels_of = channels_of(program)
        values = 1 + max(value for operation in program.operations for value in outputs(operation))
        pixels = np.asarray(mean, np.float32), np.float32(1) / np.asarray(std, np.float32)
        self._engine = ctypes.c_void_p(
            self._library.dynet_new(threads, values, self._paired, *map(self._pointer, pixels))
        )
        for operation in program.operations:
            _ADD[type(operation)](self, operation)
        if not isinstance(program.operations[-1], Dense):
            raise UserError("the native engine runs classifiers, which end with a linear layer; use runtime='jax'")
        self.outputs = program.operations[-1].kernel.shape[1]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits, [batch, outputs]. Raises UserError for images that are smaller than the network's stride."""
        is_bytes = images.dtype == np.uint8
        images = np.ascontiguousarray(images, np.uint8 if is_bytes else np.float32)
        y = np.empty((len(images), self.outputs), np.float32)
        batch, height, width, _ = images.shape
        failed = self._library.dynet_run(
            self._engine, _address(images), is_bytes, batch, height, width, _address(y), self.outputs
        )
        if failed:
            raise UserError(f"images of {height}x{width} are too small for this network")
        return y

    def profile(self, image: np.ndarray) -> np.ndarray:
        """Seconds of every operation of `program` for one image [1, height, width, 3], and of all fusions, which are a
        part of the predictors'."""
        is_bytes = image.dtype == np.uint8
        image = np.ascontiguousarray(image, np.uint8 if is_bytes else np.float32)
        y, times = np.empty(self.outputs, np.float32), np.zeros(len(self.program.operations) + 1)
        self._library.dynet_profile(
            self._engine, _address(image), is_bytes, *image.shape[1:3], _address(y), _address(times)
        )
        return times

    def __del__(self):
        if getattr(self, "_engine", None):
            self._library.dynet_delete(self._engine)

    def _convolution(self, op: Convolution) -> None:
        dynamic = isinstance(op.kernel, Bank)
        kernel = op.kernel.stored_as(self._storage) if dynamic else op.kernel
        panels = pack_kernel(kernel, op.feature_group_count, paired=self._paired)
        *_, inputs, c_out = kernel.kernels.shape if dynamic else kernel.shape
        size = (kernel.kernels.shape[1:] if dynamic else kernel.shape)[:2]
        window = [*size, *op.strides, *op.kernel_dilation, *_padding(op.padding, size, op.kernel_dilation)]
        geometry = [inputs * op.feature_group_count, c_out, op.feature_group_count, *window, ACTIVATIONS[op.activation]]
        self._library.dynet_convolution(
            self._engine,
            self._numbers(geometry),
            op.x,
            op.y,
            op.coefficients if dynamic else -1,
            -1 if op.residual is None else op.residual,
            dynamic and self._features[op.coefficients] == 1,
            len(kernel.kernels) if dynamic else 0,
            STORAGE[self._storage] if dynamic else STORAGE["float32"],
            panels.mode,
            *map(self._pointer, (panels.weights, panels.scales, op.bias, panels.blocks)),
            len(panels.blocks),
            ctypes.c_int64(panels.elements),
        )

    def _predictor(self, op: Predictor) -> None:
        hidden = None if op.hidden is None else ctypes.byref(self._linear(*op.hidden))
        self._library.dynet_predictor(
            self._engine,
            op.x,
            self._numbers(op.ys),
            self._numbers(op.features),
            len(op.ys),
            op.group_size,
            op.activation == "softmax",
            hidden,
            ctypes.byref(self._linear(*op.output)),
        )

    def _dense(self, op: Dense) -> None:
        arrays = self._linear(op.kernel, op.bias)
        self._library.dynet_dense(self._engine, op.x, op.y, ctypes.byref(arrays), ACTIVATIONS[op.activation])

    def _mean(self, op: Mean) -> None:
        self._library.dynet_mean(self._engine, op.x, op.y)

    def _elementwise(self, op: Elementwise) -> None:
        inputs = self._numbers(op.inputs)
        self._library.dynet_elementwise(self._engine, inputs, len(op.inputs), op.y, FUNCTIONS[op.function])

    def _max_pool(self, op: MaxPool) -> None:
        size, ones = (op.size, op.size), (1, 1)
        window = [*size, op.strides, op.strides, *ones, *_padding(op.padding, size, ones)]
        self._library.dynet_max_pool(self._engine, self._numbers([0, 0, 0, *window, 0]), op.x, op.y)

    def _channels(self, op: Channels) -> None:
        """Which input, and which of its channels, each channel of the result is."""
        sources = [(number, c) for number, value in enumerate(op.inputs) for c in range(self._channels_of[value])]
        sources = sources[op.start : op.stop]
        sources = sources if op.permutation is None else [sources[c] for c in op.permutation]
        numbers = self._numbers([number for source in sources for number in source])
        self._library.dynet_channels(
            self._engine, self._numbers(op.inputs), len(op.inputs), op.y, numbers, len(sources)
        )

    def _linear(self, kernel: np.ndarray, bias: np.ndarray) -> LinearArrays:
        columns = pack_linear(kernel, bias, self._storage)
        pointers = map(self._pointer, (columns.weights, columns.scales, columns.bias))
        return LinearArrays(*kernel.shape, STORAGE[self._storage], *pointers)

    def _numbers(self, values: Sequence[int]) -> ctypes.c_void_p:
        return self._pointer(np.asarray(values, np.int32))

    def _pointer(self, array: np.ndarray | None) -> ctypes.c_void_p | None:
        if array is None:
            return None
        self._kept.append(np.ascontiguousarray(array))
        return _address(self._kept[-1])


_ADD = {
    Convolution: Engine._convolution,
    Predictor: Engine._predictor,
    Dense: Engine._dense,
    Mean: Engine._mean,
    Elementwise: Engine._elementwise,
    MaxPool: Engine._max_pool,
    Channels: Engine._channels,
}


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _padding(padding: Padding, size: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Whether it is SAME, and else the numbers: above, below, left, right."""
    if padding == "SAME":
        return SAME
    if padding == "VALID":
        return [EXPLICIT, 0, 0, 0, 0]
    if padding == "TORCH":
        return [EXPLICIT, *(d * (k - 1) // 2 for k, d in zip(size, dilation) for _ in range(2))]
    sides = [padding] * 2 if isinstance(padding, int) else padding
    return [EXPLICIT, *(n for side in sides for n in ([side] * 2 if isinstance(side, int) else side))]


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 arithmetic, so that it is the faster one."""
    return bool(_library().dynet_has_bfloat16())


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build()))
    library.dynet_new.restype = ctypes.c_void_p
    library.dynet_delete.restype = None
    return library
