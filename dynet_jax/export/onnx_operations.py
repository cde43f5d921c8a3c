"""What every operation of a program is in ONNX. Values are [batch, channels, height, width], or [batch, channels].

A vector may have either form; where an operation needs the other one, it is reshaped (`Forms`).

A dynamic convolution has one kernel per image, and ONNX's `group` is a constant, so that a batch cannot be folded into
groups. Programs with dynamic convolutions are therefore written for one image, and `dynet_jax.export.onnx` repeats
them. A bank lies in the file as [C_out, group_size, C_in * positions], and coefficients are [C_out, 1, group_size]:
then fusion is a matrix product that reads the bank once, in its order, and gives the kernel in the order of Conv.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.export.onnx_elementwise import elementwise
from dynet_jax.export.onnx_forms import Forms
from dynet_jax.export.onnx_graph import Graph
from dynet_jax.export.onnx_windows import pad, scales, window_of
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    Channels,
    Convolution,
    Dense,
    Elementwise,
    Flatten,
    MaxPool,
    Mean,
    Pool,
    Predictor,
    Program,
    Reduce,
    outputs,
)
from dynet_jax.ops.maps import ACTIVATIONS

STORED = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)))  # what banks may be
FLOAT = 1  # onnx.TensorProto.FLOAT


def add_program(graph: Graph, program: Program, images: str, batch: int | str) -> str:
    """Add the nodes of a program for normalised images, [batch, 3, height, width]; the name of its result.

    batch: 1 if a convolution is dynamic, otherwise a number or the name of that dimension.
    Raises UserError for what ONNX Runtime cannot run, and for a program that `fold` has not seen.
    """
    translation = _Translation(graph, _without_shuffles(program), batch)
    return translation.run(images)


def _without_shuffles(program: Program) -> Program:
    """Slices of shuffled channels are taken from what was shuffled: that moves half as many bytes, in one node less."""
    shuffles, operations = {}, []
    for operation in program.operations:
        if isinstance(operation, Channels) and len(operation.inputs) == 1:
            if operation.permutation is not None:
                shuffles[operation.y] = operation
            elif operation.inputs[0] in shuffles:
                shuffle = shuffles[operation.inputs[0]]
                part = shuffle.permutation[operation.start : operation.stop]
                operation = shuffle._replace(name=operation.name, y=operation.y, permutation=part)
        operations.append(operation)
    program = program._replace(operations=tuple(operations))
    needed = program.uses()
    return program._replace(operations=tuple(o for o in operations if o.y not in shuffles or o.y in needed))


def _groups_shuffled(operation: Channels) -> int | None:
    """The groups whose channels are interleaved, if that is what is done to all channels of the inputs."""
    order = operation.permutation
    if order is None or order[0] != 0 or operation.start != 0 or sorted(order) != list(range(len(order))):
        return None
    groups = len(order) // order[1] if len(order) > 1 and len(order) % order[1] == 0 else 1
    shuffled = np.arange(len(order)).reshape(groups, -1).T.ravel()
    return groups if np.array_equal(order, shuffled) else None


class _Translation:
    """One program on its way into a graph."""

    def __init__(self, graph: Graph, program: Program, batch: int | str):
        self.graph, self.program, self.batch = graph, program, batch
        self.scales = scales(program)

    def run(self, images: str) -> str:
        self.forms = forms = Forms(self.graph, images)
        for operation in self.program.operations:
            translate = self._TRANSLATE.get(type(operation))
            if translate is None:
                raise UserError(
                    f"{operation.name} is a {type(operation).__name__}: call fold(program) before exporting"
                )
            rank, inputs = forms.inputs(operation)
            results = translate(self, operation, *inputs)
            forms.add(outputs(operation), (results,) if isinstance(results, str) else results, rank)
        return forms.of_rank(self.program.result, 2 if self.program.is_vector(self.program.result) else 4)

    def convolution(self, operation: Convolution, x: str, *rest: str) -> str:
        graph, name, window = self.graph, operation.name, window_of(operation)
        if isinstance(operation.kernel, Bank):
            kernel = self.fused_kernel(name, operation.kernel, rest[0])
        else:
            kernel = graph.constant(operation.kernel.transpose(3, 2, 0, 1), f"{name}/kernel")
        x, padding = pad(graph, x, window)
        y = graph.node(
            "Conv",
            x,
            kernel,
            graph.constant(operation.bias, f"{name}/bias"),
            name=name,
            kernel_shape=window.kernel_size,
            strides=window.strides,
            dilations=window.kernel_dilation,
            group=operation.feature_group_count,
            **padding,
        )
        if operation.residual is not None:
            self.describe_sum(operation, y, rest[-1])
            y = graph.node("Add", y, rest[-1], name=f"{name}/add")
        return self.activate(operation.activation, y, name)

    def describe_sum(self, operation: Convolution, *tensors: str) -> None:
        scale = self.scales[operation.y]
        if scale is None or operation.residual is None or scale != self.scales[operation.residual]:
            return
        if self.program.image_size is not None:
            size: list[int | str] = [-(-n // s) for n, s in zip(self.program.image_size, scale)]
        else:
            size = [name if s == 1 else f"ceil({name}/{s})" for name, s in zip(("height", "width"), scale)]
        for tensor in tensors:
            self.graph.describe(tensor, [self.batch, operation.bias.size, *size])

    def fused_kernel(self, name: str, bank: Bank, coefficients: str) -> str:
        """The kernel of one image, [C_out, C_in / groups, height, width]."""
        graph, (group_size, height, width, c_in, c_out) = self.graph, bank.kernels.shape
        if bank.kernels.dtype not in STORED:
            raise UserError(
                f"the bank of {name} is {bank.kernels.dtype}; ONNX files hold {', '.join(map(str, STORED))}"
            )
        kernels = bank.kernels.transpose(4, 0, 3, 1, 2).reshape(c_out, group_size, -1)
        stored = graph.constant(kernels, f"{name}/bank")
        # Nothing in these two nodes depends on the images, so that a runtime does them once, when it loads the file.
        if kernels.dtype != np.float32:
            stored = graph.node("Cast", stored, name=f"{name}/float32", to=FLOAT)
        if bank.scales is not None:
            by = graph.constant(bank.scales.T[:, :, None], f"{name}/scales")
            stored = graph.node("Mul", stored, by, name=f"{name}/dequantized")
        fused = graph.node("MatMul", coefficients, stored, name=f"{name}/fused")
        shape = graph.constant([c_out, c_in, height, width], f"{name}/shape")
        return graph.node("Reshape", fused, shape, name=f"{name}/kernel")

    def predictor(self, operation: Predictor, x: str) -> Sequence[str]:
        """Coefficients [C_out or 1, 1, group_size] of every output, for one image."""
        graph, name, group_size = self.graph, operation.name, operation.group_size
        if self.forms.rank(operation.x) == 4:
            x = self.mean(Mean(f"{name}/mean", operation.x, operation.y, keep_positions=False), x)
        if operation.limits is not None:
            lower, upper = (
                graph.constant(limit[None], f"{name}/{i}") for i, limit in zip(("lower", "upper"), operation.limits)
            )
            x = graph.node("Min", graph.node("Max", x, lower, name=f"{name}/at_least"), upper, name=f"{name}/at_most")
        if operation.hidden is not None:
            x = self.activate("relu", self.linear(f"{name}/hidden", x, *operation.hidden), name)
        order, start = [], 0
        for features in operation.features:  # the predictor's own order is [group_size, features] for each output
            order.append(start + np.arange(group_size * features).reshape(group_size, features).T.ravel())
            start += group_size * features
        order, (kernel, bias) = np.concatenate(order), operation.output
        y = self.linear(f"{name}/coefficients", x, kernel[:, order], bias[order])
        y = graph.node("Reshape", y, graph.constant([-1, 1, group_size], f"{name}/shape"), name=f"{name}/by_kernel")
        axis = {"axis": 2} if operation.activation == "softmax" else {}
        y = graph.node(operation.activation.title(), y, name=f"{name}/{operation.activation}", **axis)
        if len(operation.ys) == 1:
            return (y,)
        sizes = graph.constant(operation.features, f"{name}/sizes")
        return graph.nodes("Split", y, sizes, names=[f"{name}/{i}" for i in range(len(operation.ys))], axis=0)

    def dense(self, operation: Dense, x: str) -> str:
        y = self.linear(operation.name, x, operation.kernel, operation.bias)
        return self.activate(operation.activation, y, operation.name)

    def linear(self, name: str, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        arrays = self.graph.constant(kernel, f"{name}/kernel"), self.graph.constant(bias, f"{name}/bias")
        return self.graph.node("Gemm", x, *arrays, name=name)

    def elementwise(self, operation: Elementwise, *inputs: str) -> str:
        if operation.function in ACTIVATIONS:
            return self.activate(operation.function, inputs[0], operation.name)
        rank = max(self.forms.rank(value) for value in operation.inputs)
        return elementwise(self.graph, operation, inputs, rank)

    def pool(self, operation: Pool, x: str) -> str:
        graph, name, window = self.graph, operation.name, window_of(operation)
        _, padding = pad(graph, x, window)
        options: dict[str, Any] = {"kernel_shape": window.kernel_size, "strides": window.strides, **padding}
        if operation.function == "max":
            return graph.node("MaxPool", x, name=name, **options)
        if operation.function == "min":
            y = graph.node("MaxPool", graph.node("Neg", x, name=f"{name}/negative"), name=f"{name}/max", **options)
            return graph.node("Neg", y, name=name)
        padded = int(operation.function == "mean_with_padding")
        return graph.node("AveragePool", x, name=name, count_include_pad=padded, **options)

    def reduce(self, operation: Reduce, x: str) -> str:
        graph, name, groups = self.graph, operation.name, operation.groups
        kind = f"Reduce{operation.function.title()}"
        if groups is None:
            return graph.node(kind, x, graph.constant([2, 3], "positions"), name=name, keepdims=0)
        if groups == 1:
            return graph.node(kind, x, graph.constant([1], "channels"), name=name, keepdims=1)
        if self.forms.rank(operation.x) == 4:
            raise UserError(f"{name} reduces groups of channels of a map, which ONNX files do not have")
        apart = graph.node("Reshape", x, graph.constant([0, groups, -1], f"{name}/groups"), name=f"{name}/by_group")
        return graph.node(kind, apart, graph.constant([2], "members"), name=name, keepdims=0)

    def flatten(self, operation: Flatten, x: str) -> str:
        last = self.graph.node("Transpose", x, name=f"{operation.name}/channels_last", perm=(0, 2, 3, 1))
        return self.graph.node("Flatten", last, name=operation.name, axis=1)

    def max_pool(self, operation: MaxPool, x: str) -> str:
        window = window_of(operation)
        x, padding = pad(self.graph, x, window)
        options = {"kernel_shape": window.kernel_size, "strides": window.strides}
        return self.graph.node("MaxPool", x, name=operation.name, **options, **padding)

    def mean(self, operation: Mean, x: str) -> str:
        axes = self.graph.constant([2, 3], "positions")
        return self.graph.node("ReduceMean", x, axes, name=operation.name, keepdims=int(operation.keep_positions))

    def channels(self, operation: Channels, *inputs: str) -> str:
        graph, name = self.graph, operation.name
        x = graph.node("Concat", *inputs, name=name, axis=1) if len(inputs) > 1 else inputs[0]
        groups = _groups_shuffled(operation)
        if groups and operation.permutation:
            # By axes, not by a Gather: OpenVINO 2026.4 takes a Gather of all channels before a convolution for their
            # reversal, and computes something else.
            apart = graph.constant([0, groups, len(operation.permutation) // groups, -1], f"{name}/apart")
            y = graph.node("Reshape", x, apart, name=f"{name}/by_group")
            y = graph.node("Transpose", y, name=f"{name}/interleaved", perm=(0, 2, 1, 3))
            return graph.node("Reshape", y, graph.node("Shape", x, name=f"{name}/shape"), name=name)
        if operation.permutation is not None:
            order = graph.constant(operation.start + np.asarray(operation.permutation, np.int64), f"{name}/order")
            return graph.node("Gather", x, order, name=name, axis=1)
        channels = sum(self.program.values[value].channels for value in operation.inputs)
        if (operation.start, operation.stop) == (0, channels):
            return x
        bounds = (graph.constant([n], str(n)) for n in (operation.start, operation.stop, 1))
        return graph.node("Slice", x, *bounds, name=name)

    def activate(self, function: str | None, x: str, name: str) -> str:
        if function is None:
            return x
        graph, name = self.graph, f"{name}/{function}"
        if function == "relu6":
            bounds = (graph.constant(np.float32(n), f"{n}.0") for n in (0, 6))
            return graph.node("Clip", x, *bounds, name=name)
        if function == "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x, name=f"{name}/gate"), name=name)
        kind, options = {
            "relu": ("Relu", {}),
            "sigmoid": ("Sigmoid", {}),
            "hard_swish": ("HardSwish", {}),
            "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        }[function]
        return graph.node(kind, x, name=name, **options)

    _TRANSLATE: ClassVar[dict[type, Callable[..., str | Sequence[str]]]] = {
        Convolution: convolution,
        Predictor: predictor,
        Dense: dense,
        Elementwise: elementwise,
        MaxPool: max_pool,
        Pool: pool,
        Reduce: reduce,
        Flatten: flatten,
        Mean: mean,
        Channels: channels,
    }
