"""From a Flax network and its variables to a program: the network is traced once, its layers left whole.

What a network does between its layers (additions, slices, activations) is read from the traced program. So it works for
any network that is made of this package's layers and Flax's own Conv, BatchNorm and Dense.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import (
    IMAGES,
    Channels,
    Convolution,
    Dense,
    Elementwise,
    MaxPool,
    Mean,
    Normalization,
    Operation,
    Predictor,
    Program,
)
from dynet_jax.layers import BatchNorm, CoefficientPredictor, Conv, DynamicConv
from dynet_jax.layers.whole import channel_shuffle, recorded_by
from dynet_jax.ops.window import per_dimension

CONVOLUTIONS = (Conv, nn.Conv, DynamicConv)
LAYERS = (*CONVOLUTIONS, BatchNorm, nn.BatchNorm, CoefficientPredictor, nn.Dense)
# As `jax.nn` calls them, and as they are called here.
ACTIVATIONS = {name: name for name in ("relu", "relu6", "hard_sigmoid", "sigmoid", "silu")} | {
    "hard_silu": "hard_swish"
}
TRANSPARENT = ("copy", "convert_element_type", "stop_gradient", "squeeze", "broadcast_in_dim", "reshape")

whole_p = core.Primitive("whole_operation")
whole_p.multiple_results = True
whole_p.def_abstract_eval(lambda *_, number, avals: avals)


def record(model: nn.Module, variables: dict, image_size: int) -> Program:
    """The program of `model.apply(variables, images, train=False)`, BatchNorms still apart (see `fold`).

    image_size: of the images that the network is traced with; any that it takes will do.
    Raises UserError for a network with an operation that programs do not have.
    """
    recorder = _Recorder()

    def forward(images):
        with nn.intercept_methods(recorder.layer), recorded_by(recorder.function):
            return model.apply(variables, images, train=False)

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return _Reader(recorder.makers).read(jax.make_jaxpr(forward)(images))


class _Recorder:
    """Puts one equation into the traced program for each layer; `makers` has what operation each of them is."""

    def __init__(self):
        self.makers: list[Callable[..., Operation]] = []
        self._coefficients: dict[tuple, Any] = {}  # of the predictors met, by their path

    def layer(self, next_call, args, kwargs, context):
        y, module = next_call(*args, **kwargs), context.module
        if context.method_name != "__call__" or not isinstance(module, LAYERS):
            return y
        arguments = [argument for argument in (*args, *kwargs.values()) if argument is not None]
        if isinstance(module, DynamicConv) and len(arguments) == 1:  # its own predictor has been met inside
            arguments.append(self._coefficients[(*module.path, "predictor")][0])
        results = self._whole(_maker(module, arguments[0].shape[-1]), arguments, y if isinstance(y, tuple) else (y,))
        if isinstance(module, CoefficientPredictor):
            self._coefficients[module.path] = results
        return results if isinstance(y, tuple) else results[0]

    def function(self, name, x, options, y):
        makers = {
            "max_pool": lambda inputs, ys: MaxPool("max_pool", *inputs, *ys, *options),
            "spatial_mean": lambda inputs, ys: Mean("mean", *inputs, *ys, keep_positions=y.ndim > 2),
            "channel_shuffle": lambda inputs, ys: Channels("shuffle", inputs, *ys, 0, x.shape[-1], permutation),
        }
        permutation = None
        if name == "channel_shuffle":
            with jax.ensure_compile_time_eval(), recorded_by(None):
                permutation = tuple(channel_shuffle(jnp.arange(x.shape[-1]), *options).tolist())
        return self._whole(makers[name], [x], (y,))[0]

    def _whole(self, maker, arguments, ys):
        self.makers.append(maker)
        return tuple(whole_p.bind(*arguments, number=len(self.makers) - 1, avals=tuple(map(jax.typeof, ys))))


def _maker(module: nn.Module, c_in: int) -> Callable[[tuple[int, ...], tuple[int, ...]], Operation]:
    """(numbers of the inputs, numbers of the outputs) -> the operation of a layer."""
    name, (params, stats) = "/".join(module.path), (_arrays(module, "params"), _arrays(module, "batch_stats"))
    if isinstance(module, CONVOLUTIONS):
        options = _convolution_options(module)
        kernel = Bank(params["kernels"]) if isinstance(module, DynamicConv) else params["kernel"]
        features = kernel.kernels.shape[-1] if isinstance(kernel, Bank) else kernel.shape[-1]
        bias = params.get("bias", np.zeros(features, np.float32))
        return lambda inputs, ys: Convolution(name, inputs[0], *ys, kernel, bias, *inputs[1:], **options)
    if isinstance(module, CoefficientPredictor):
        return lambda inputs, ys: _predictor(name, module, params, inputs, ys)
    if isinstance(module, nn.Dense):
        bias = params.get("bias", np.zeros(module.features, np.float32))
        return lambda inputs, ys: Dense(name, *inputs, *ys, params["kernel"], bias)
    one, zero = np.ones(c_in, np.float32), np.zeros(c_in, np.float32)
    scale = params.get("scale", one) / np.sqrt(stats["var"] + module.epsilon)
    shift = params.get("bias", zero) - stats["mean"] * scale
    return lambda inputs, ys: Normalization(name, *inputs, *ys, scale, shift)


def _arrays(module, collection) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(module.variables.get(collection, {})))


def _convolution_options(module):
    unusual = getattr(module, "mask", None) is not None or getattr(module, "input_dilation", 1) not in (1, None)
    if unusual or getattr(module, "kernel_size", None) is None:
        raise UserError(f"{'/'.join(module.path)} has a mask or an input_dilation, which programs do not have")
    rank = 1 if isinstance(module.kernel_size, int) else len(module.kernel_size)
    if rank != 2:
        raise UserError(f"{'/'.join(module.path)} is a convolution in {rank} dimensions; programs are of images")
    return {
        "strides": per_dimension(module.strides, rank, "strides"),
        "padding": module.padding,
        "kernel_dilation": per_dimension(module.kernel_dilation, rank, "kernel_dilation"),
        "feature_group_count": module.feature_group_count,
    }


def _predictor(name, module, params, inputs, ys):
    linear = {key: (value["kernel"], value["bias"]) for key, value in params.items()}
    output = tuple(array / np.float32(module.temperature) for array in linear["coefficients"])
    features = tuple(f if module.coefficient_scope == "channel" else 1 for f in module.features)
    return Predictor(name, *inputs, ys, linear.get("hidden"), output, module.group_size, features, module.activation)


class _Reader:
    """Reads the operations out of a traced program, in their order, without those that the result does not need."""

    def __init__(self, makers):
        self._makers = makers
        self._numbers: dict[Any, int] = {}  # of JAX's variables
        self._count = IMAGES
        self._operations: list[Operation] = []

    def read(self, closed) -> Program:
        self._numbers[closed.jaxpr.invars[0]] = IMAGES
        self._equations(closed.jaxpr)
        result = self._numbers[closed.jaxpr.outvars[0]]
        needed, kept = {result}, []
        for operation in reversed(self._operations):
            ys = operation.ys if isinstance(operation, Predictor) else (operation.y,)
            if needed.intersection(ys):
                kept.append(operation)
                needed.update(operation.inputs)
        strange = next((op for op in reversed(kept) if isinstance(op, _Unknown)), None)
        if strange is not None:
            raise UserError(
                f"the network has an operation {strange.name!r} between its layers, which programs do not have; they "
                f"have add, mul, concatenate, slices of channels, {', '.join(ACTIVATIONS)}, and the functions of "
                "dynet_jax.layers.whole"
            )
        return Program(tuple(reversed(kept)), result)

    def _new(self, variables) -> tuple[int, ...]:
        numbers = range(self._count + 1, self._count + 1 + len(variables))
        self._count += len(variables)
        self._numbers.update(zip(variables, numbers))
        return tuple(numbers)

    def _equations(self, jaxpr) -> None:
        for equation in jaxpr.eqns:
            inputs = [self._numbers.get(v) for v in equation.invars if not isinstance(v, core.Literal)]
            known = all(number is not None for number in inputs) and len(inputs) == len(equation.invars)
            if equation.primitive is whole_p:
                make = self._makers[equation.params["number"]]
                self._operations.append(make(tuple(inputs), self._new(equation.outvars)))
            elif known and self._plain(equation, tuple(inputs)):
                continue
            else:
                self._nested(equation, inputs)

    def _plain(self, equation, inputs) -> bool:
        """Whether it is one of the operations between layers that programs have."""
        kind, params = equation.primitive.name, equation.params
        shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        activation = ACTIVATIONS.get(params.get("name"))
        if kind in TRANSPARENT and _is_transparent(kind, *shapes):
            self._numbers[equation.outvars[0]] = inputs[0]
        elif activation is not None or kind == "logistic":
            self._operations.append(
                Elementwise(activation or "sigmoid", inputs, *self._new(equation.outvars), activation or "sigmoid")
            )
        elif kind in ("add", "mul", "add_any"):
            function = "multiply" if kind == "mul" else "add"
            self._operations.append(Elementwise(function, inputs, *self._new(equation.outvars), function))
        elif kind == "concatenate" and params["dimension"] == len(shapes[-1]) - 1:
            y = self._new(equation.outvars)
            self._operations.append(Channels("concatenate", inputs, *y, 0, shapes[-1][-1]))
        elif kind == "slice" and shapes[0][:-1] == shapes[1][:-1] and not params["strides"]:
            bounds = params["start_indices"][-1], params["limit_indices"][-1]
            self._operations.append(Channels("slice", inputs, *self._new(equation.outvars), *bounds))
        else:
            return False
        return True

    def _nested(self, equation, inputs) -> None:
        """A function called by name is read through; anything else is unknown, which matters if the result needs it."""
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if inner is None:
            known = tuple(number for number in inputs if number is not None)
            self._operations += [_Unknown(equation.primitive.name, known, y) for y in self._new(equation.outvars)]
            return
        inner = getattr(inner, "jaxpr", inner)
        for inside, outside in zip(inner.invars, equation.invars):
            if not isinstance(outside, core.Literal) and outside in self._numbers:
                self._numbers[inside] = self._numbers[outside]
        self._equations(inner)
        for inside, outside in zip(inner.outvars, equation.outvars):
            if not isinstance(inside, core.Literal) and inside in self._numbers:
                self._numbers[outside] = self._numbers[inside]


class _Unknown:
    def __init__(self, name, inputs, y):
        self.name, self.inputs, self.y = name, inputs, y


def _is_transparent(kind, before, after) -> bool:
    """Whether nothing moves: only axes of length 1 come, go or are repeated."""
    if kind == "broadcast_in_dim":  # of a single position to all, which every runtime does by itself
        return before[-1:] == after[-1:] and all(size == 1 for size in before[1:-1])
    if kind in ("squeeze", "reshape"):
        return [size for size in before if size != 1] == [size for size in after if size != 1]
    return True
