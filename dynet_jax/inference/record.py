"""From a Flax network and its variables to a program: the network is traced once, its layers left whole.

What a network does between its layers (additions, slices, activations) is read from the traced program (`read_trace`).
So it works for any network that is made of this package's layers and Flax's own Conv, BatchNorm and Dense.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.errors import UserError, one_line
from dynet_jax.inference.layer_operations import LAYERS, Maker, maker_of
from dynet_jax.inference.program import Channels, Elementwise, MaxPool, Mean, Program, outputs
from dynet_jax.inference.read_trace import BATCH, program_of_trace, whole_p
from dynet_jax.layers import CoefficientPredictor, DynamicConv
from dynet_jax.layers.whole import channel_shuffle
from dynet_jax.ops.outline import tracing_outlines
from dynet_jax.ops.whole import recorded_by

VALUES = ("x", "y", "ys", "inputs", "coefficients", "residual")  # fields of operations that are numbers of values


def record(model: nn.Module, variables: dict, image_size: int) -> Program:
    """The program of `model.apply(variables, images, train=False)`, BatchNorms still apart (see `fold`).

    A model whose `__call__` has no argument `train` is called with images alone.
    image_size: of the images that the network is traced with; any that it takes will do. It is traced with images of
      twice that size too: what it does may not depend on their size.
    Raises UserError for a network with an operation that programs do not have, or more than one result.
    """
    program = _recorded(model, variables, image_size)
    try:
        other = _recorded(model, variables, 2 * image_size)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the network takes images of {image_size} pixels, but none of {2 * image_size}, where programs are of any "
            f"size: {one_line(error, limit=200)}"
        ) from error
    if _form(program) != _form(other):
        raise UserError(
            f"the network does something else with images of {2 * image_size} pixels than with those of {image_size}; "
            "programs do the same with every size"
        )
    return program


def _recorded(model, variables, image_size) -> Program:
    recorder, options = _Recorder(), _options(model)

    def forward(images):
        with nn.intercept_methods(recorder.layer), recorded_by(recorder.function):
            return model.apply(variables, images, **options)

    images = jax.ShapeDtypeStruct((BATCH, image_size, image_size, 3), jnp.float32)
    try:
        with tracing_outlines():
            traced = jax.make_jaxpr(forward)(images)
    except NotImplementedError as error:
        if whole_p.name not in str(error):
            raise
        raise UserError("the network has a layer within jax.vmap or jax.grad, which programs do not have") from error
    return program_of_trace(traced)


def _form(program: Program) -> list:
    """All but the weights, and the numbers of values, which count what was left out too."""
    numbers = {}
    rows = []
    for operation in program.operations:
        values = [numbers.setdefault(value, len(numbers)) for value in (*operation.inputs, *outputs(operation))]
        fields = {key: field for key, field in operation._asdict().items() if key not in VALUES}
        shapes = jax.tree.map(lambda leaf: leaf.shape if isinstance(leaf, np.ndarray) else leaf, fields)
        rows.append((type(operation), values, shapes))
    return rows


def _options(model: nn.Module) -> dict[str, bool]:
    signature = inspect.signature(model.__call__)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    options = {"train": False} if "train" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds else {}
    try:
        signature.bind(None, **options)
    except TypeError as error:
        raise UserError(
            f"the network is called with images and train=False alone, which it does not take: {error}"
        ) from (error)
    return options


class _Recorder:
    """Puts one equation into the traced program for each layer, with the maker of its operation."""

    def __init__(self):
        self._coefficients: dict[tuple, Any] = {}  # of the predictors met, by their path

    def layer(self, next_call, args, kwargs, context):
        y, module = next_call(*args, **kwargs), context.module
        # A subclass may do something else: it is traced through.
        if context.method_name != "__call__" or type(module) not in LAYERS:
            return y
        given = inspect.signature(type(module).__call__).bind(module, *args, **kwargs).arguments
        x, coefficients = list(given.values())[1], given.get("coefficients")
        if type(module) is DynamicConv and coefficients is None:  # its own predictor has been met inside
            coefficients = self._coefficients[(*module.path, "predictor")][0]
        arguments = [x] if coefficients is None else [x, coefficients]
        results = _whole(maker_of(module, x), arguments, y if isinstance(y, tuple) else (y,))
        if type(module) is CoefficientPredictor:
            self._coefficients[module.path] = results
        return results if isinstance(y, tuple) else results[0]

    def function(self, name, x, options, y):
        if name == "activate" and options["activation"] is None:
            return y
        makers = {
            "activate": lambda inputs, ys: Elementwise(options["activation"], inputs, ys[0], options["activation"]),
            "max_pool": lambda inputs, ys: MaxPool("max_pool", inputs[0], ys[0], **options),
            "spatial_mean": lambda inputs, ys: Mean("mean", inputs[0], ys[0], keep_positions=options["keepdims"]),
            "channel_shuffle": lambda inputs, ys: Channels("shuffle", inputs, ys[0], 0, x.shape[-1], permutation),
        }
        permutation = None
        if name == "channel_shuffle":
            with jax.ensure_compile_time_eval(), recorded_by(None):
                permutation = tuple(channel_shuffle(jnp.arange(x.shape[-1]), **options).tolist())
        return _whole(Maker(name, makers[name]), [x], (y,))[0]


def _whole(maker, arguments, ys):
    return tuple(whole_p.bind(*arguments, maker=maker, avals=tuple(map(jax.typeof, ys))))
