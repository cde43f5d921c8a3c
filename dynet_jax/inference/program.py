"""A network for inference, as a list of operations that every runtime can follow: JAX, the native engine, ONNX.

Values are numbered; value 0 is the batch of normalised images, [batch, height, width, channels]. Nothing in a program
depends on the batch. Arrays are numpy's, in float32, except for banks stored in less.

A program takes images of any size, unless its `image_size` says which alone.

A value is a map, or a vector, or the coefficients that a predictor gives (see `Value`). [batch, channels] and
[batch, 1, 1, channels] are the same vector: every operation takes either, and beside a map it is repeated at every
position of the map.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from dynet_jax.inference.bank import Bank
from dynet_jax.ops.window import Padding

IMAGES = 0
MAP = "map"  # [batch, height, width, channels]
VECTOR = "vector"  # [batch, channels] or [batch, 1, 1, channels], without positions whatever the size of the images
COEFFICIENTS = "coefficients"  # [batch, group_size, channels]


class Value(NamedTuple):
    """The kind of a value. Its shape does not say it: a map may have one position for some size of images."""

    kind: str  # MAP, VECTOR or COEFFICIENTS
    channels: int  # of coefficients, how many each kernel has: those of the convolution, or 1


class Convolution(NamedTuple):
    """activation(convolution(x) + bias + residual), with a kernel of its own for every image if it is dynamic."""

    name: str
    x: int
    y: int
    kernel: np.ndarray | Bank  # [*kernel_size, C_in / groups, C_out], or a bank of such kernels
    bias: np.ndarray
    coefficients: int | None = None  # the value [batch, group_size, C_out or 1] with which the bank is fused
    residual: int | None = None  # of the same shape as the result
    activation: str | None = None
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    kernel_dilation: tuple[int, int] = (1, 1)
    feature_group_count: int = 1

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(value for value in (self.x, self.coefficients, self.residual) if value is not None)


class Predictor(NamedTuple):
    """Mean over positions -> limits -> one or two linear layers -> coefficients of several dynamic convolutions."""

    name: str
    x: int
    ys: tuple[int, ...]
    hidden: tuple[np.ndarray, np.ndarray] | None  # kernel [C_in, hidden], bias; a ReLU follows
    output: tuple[np.ndarray, np.ndarray]  # the temperature is in it
    group_size: int
    features: tuple[int, ...]  # coefficients per kernel of each output: C_out, or 1
    activation: str  # sigmoid, or softmax over the kernels
    limits: tuple[np.ndarray, np.ndarray] | None = None  # the least and the greatest mean of each channel, [C_in]

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)

    @property
    def y(self) -> int:
        return self.ys[0]


class Dense(NamedTuple):
    """activation(x @ kernel + bias), for a vector x of C_in."""

    name: str
    x: int
    y: int
    kernel: np.ndarray
    bias: np.ndarray
    activation: str | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Normalization(NamedTuple):
    """x * scale + shift, for each channel: a BatchNorm that follows no convolution, as `fold` leaves it."""

    name: str
    x: int
    y: int
    scale: np.ndarray
    shift: np.ndarray

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Elementwise(NamedTuple):
    """A function of each element: an activation or another function of one value, or one of two or three operands.

    Operands may be a map and a vector, or have one channel; `dynet_jax.inference.elementwise` lists the functions.
    """

    name: str
    inputs: tuple[int, ...]
    y: int
    function: str
    # For each operand None, for the next input, or a constant: [], [channels], or [height, width, channels] with a map.
    constants: tuple[np.ndarray | None, ...] = ()


class MaxPool(NamedTuple):
    """The largest of a window of size x size, at every `strides`-th position."""

    name: str
    x: int
    y: int
    size: int
    strides: int
    padding: Padding

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Pool(NamedTuple):
    """The 'max', 'min', 'mean' or 'mean_with_padding' of a window; padding counts as zeros in the last one alone."""

    name: str
    x: int
    y: int
    function: str
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Reduce(NamedTuple):
    """The 'sum', 'max' or 'min' over all positions, which gives a vector, or over the channels of each group."""

    name: str
    x: int
    y: int
    function: str
    groups: int | None = None  # of channels; None reduces over positions

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Flatten(NamedTuple):
    """A vector of the elements of a map of known size: [batch, height, width, channels] -> [batch, all of them]."""

    name: str
    x: int
    y: int

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Mean(NamedTuple):
    """The mean over positions: [batch, height, width, channels] -> [batch, channels], or [batch, 1, 1, channels]."""

    name: str
    x: int
    y: int
    keep_positions: bool

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,)


class Channels(NamedTuple):
    """Channels `start` to `stop` of the inputs side by side, and then in the order `permutation`."""

    name: str
    inputs: tuple[int, ...]
    y: int
    start: int
    stop: int
    permutation: tuple[int, ...] | None = None


Operation: TypeAlias = (
    Convolution | Predictor | Dense | Normalization | Elementwise | MaxPool | Pool | Mean | Reduce | Flatten | Channels
)


class Program(NamedTuple):
    """Operations in an order in which they can be run, the value that is the result, and what all values are.

    image_size: (height, width) of the images, for a network that does something else with images of another size, or
      does not take them; None for any size.
    """

    operations: tuple[Operation, ...]
    result: int
    values: Mapping[int, Value]
    image_size: tuple[int, int] | None = None

    def is_vector(self, value: int) -> bool:
        """Returns whether a value has no positions, whatever the size of the images."""
        return self.values[value].kind == VECTOR

    @property
    def strides(self) -> tuple[int, int]:
        """Returns how many times fewer rows, and columns, than the image the smallest map has."""
        known = {IMAGES: (1, 1)}
        for operation in self.operations:
            before = known[operation.inputs[0]]  # what else it has is of the size of its result
            if isinstance(operation, Convolution | MaxPool | Pool):
                own = (operation.strides,) * 2 if isinstance(operation, MaxPool) else operation.strides
                before = before[0] * own[0], before[1] * own[1]
            known.update(dict.fromkeys(outputs(operation), before))
        rows, columns = zip(*known.values())
        return max(rows), max(columns)

    def uses(self) -> dict[int, int]:
        """Returns how often each value is needed."""
        counts = {self.result: 1}
        for operation in self.operations:
            for value in operation.inputs:
                counts[value] = counts.get(value, 0) + 1
        return counts


def outputs(operation: Operation) -> Sequence[int]:
    """The values that it gives."""
    return operation.ys if isinstance(operation, Predictor) else (operation.y,)
