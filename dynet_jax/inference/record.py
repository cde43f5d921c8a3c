"""From a Flax network and its variables to a program: the network is traced once, its layers left whole.

What a network does between its layers (additions, slices, activations) is read from the traced program (`read_trace`).
So it works for networks of this package's layers and of Flax's, which are traced through where they are no layers of
programs.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from dynet_jax.errors import UserError, one_line
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.layer_operations import LAYERS, Maker, has_weights, maker_of
from dynet_jax.inference.program import Channels, Convolution, Elementwise, MaxPool, Mean, Predictor, Program, outputs
from dynet_jax.inference.read_trace import BATCH, program_of_trace, whole_p
from dynet_jax.inference.windows import Candidates, with_clear_padding
from dynet_jax.layers import CoefficientPredictor, DynamicConv
from dynet_jax.layers.call_options import call_options
from dynet_jax.layers.whole import channel_shuffle
from dynet_jax.ops.outline import tracing_outlines
from dynet_jax.ops.whole import recorded_by
from dynet_jax.ops.window import per_dimension

# Beyond twice the size. Maps of odd sizes, at which paddings differ, appear behind every halving, rounded up or down.
MORE_PIXELS = (0, 1, 2, 3, 5, 9, 17)
TRACED_THROUGH = (nn.Conv, nn.Dense, nn.BatchNorm)  # within nn.remat: they are made of operations that programs have
VALUES = ("x", "y", "ys", "inputs", "coefficients", "residual")  # fields of operations that are numbers of values


def record(model: nn.Module, variables: dict | None, image_size: int) -> Program:
    """The program of a network in evaluation, called with `call_options(model)`, BatchNorms still apart (see `fold`).

    model: of Linen; or of NNX (`flax.nnx`), which has its variables in it, so that `variables` are None.
    image_size: of the images that the network is traced with. It is traced with other sizes too: if it does not do the
      same with them, the program is for images of image_size alone.
    Raises UserError for a network with an operation that programs do not have, or more than one result, and for one
    that Flax cannot evaluate with these variables.
    """
    return _for_all_sizes(lambda size: _recorded(model, variables, size), image_size)


def _for_all_sizes(recorded: Callable[[int], Program], image_size: int) -> Program:
    """recorded: from the size of images to the program of a trace with them."""
    program = recorded(image_size)
    sizes = [2 * image_size + more for more in MORE_PIXELS] if program.image_size is None else []
    for size in sizes:
        if size > sizes[0] and _is_clear(program):
            break
        try:
            other = recorded(size)
        except (UserError, TypeError, ValueError, FlaxError):  # it does not take them
            other = None
        common = None if other is None else _in_common(program, other)
        if common is None and (other is not None or size == sizes[0]):
            program = program._replace(image_size=(image_size, image_size))
            break
        program = common or program
    return program._replace(operations=tuple(map(with_clear_padding, program.operations)))


def _is_clear(program: Program) -> bool:
    """Returns whether the padding of all windows is known for every size."""
    paddings = [getattr(operation, "padding", None) for operation in program.operations]
    return all(padding.is_clear for padding in paddings if isinstance(padding, Candidates))


def _in_common(program: Program, other: Program) -> Program | None:
    """Returns the program with the paddings that fit both sizes; None if they do not do the same."""
    if other.image_size is not None or _form(program) != _form(other):
        return None
    operations: list[Any] = []
    pairs: Iterable[tuple[Any, Any]] = zip(program.operations, other.operations)
    for one, two in pairs:
        padding = getattr(one, "padding", None)
        if isinstance(padding, Candidates):
            padding = padding.in_both(two.padding)
            if padding is None:
                return None
            one = one._replace(padding=padding)
        operations.append(one)
    return program._replace(operations=tuple(operations))


def _recorded(model, variables, image_size) -> Program:
    images = jax.ShapeDtypeStruct((BATCH, image_size, image_size, 3), jnp.float32)
    if isinstance(model, nn.Module) and variables is None:
        raise UserError("a Linen module needs its variables, and they are None; only an NNX module has them in it")
    try:
        traced = traced_evaluation(model, variables, images)
    except FlaxError as error:
        raise UserError(f"the network cannot be evaluated: {one_line(error, limit=200)}") from error
    except NotImplementedError as error:
        if whole_p.name not in str(error):
            raise
        raise UserError("the network has a layer within jax.vmap or jax.grad, which programs do not have") from error
    return program_of_trace(traced)


def traced_evaluation(model: nn.Module, variables: dict | None, images: jax.ShapeDtypeStruct):
    """Returns the traced network in evaluation, with an equation `whole_p` for each layer that programs have.

    What a layer is made of is in the trace too, and no result needs it.
    """
    recorder, apply = _Recorder(), evaluation_of(model, variables)

    def forward(images):
        with nn.intercept_methods(recorder.layer), recorded_by(recorder.function):
            return apply(images)

    with tracing_outlines():
        return jax.make_jaxpr(forward)(images)


def evaluation_of(model: nn.Module, variables: dict | None) -> Callable[[jax.Array], Any]:
    """Returns a network in evaluation as a function of images: a Linen module and its variables, or an NNX module."""
    options = call_options(model)
    if isinstance(model, nn.Module):
        return partial(model.apply, variables, **options)
    from flax import nnx  # which takes long to import

    evaluated = nnx.clone(model)
    evaluated.eval()
    return partial(evaluated, **options)


def _form(program: Program) -> list:
    """All but the weights, paddings, and the numbers of values, which count what was left out too."""
    numbers = {}
    rows = []
    for operation in program.operations:
        values = [numbers.setdefault(value, len(numbers)) for value in (*operation.inputs, *outputs(operation))]
        fields = {key: field for key, field in operation._asdict().items() if key not in VALUES}
        if isinstance(fields.get("padding"), Candidates):  # which are compared apart
            del fields["padding"]
        constants = [None if array is None else array.tolist() for array in fields.pop("constants", ())]
        shapes = jax.tree.map(lambda leaf: leaf.shape if isinstance(leaf, np.ndarray) else leaf, fields)
        shapes["constants"] = constants
        rows.append((type(operation), values, shapes))
    return rows


class _Recorder:
    """Puts one equation into the traced program for each layer, with the maker of its operation."""

    def __init__(self):
        self._coefficients: dict[tuple, Any] = {}  # of the predictors met, by their path

    def layer(self, next_call, args, kwargs, context):
        y, module = next_call(*args, **kwargs), context.module
        # A subclass may do something else: it is traced through.
        if context.method_name != "__call__" or type(module) not in LAYERS:
            return y
        if isinstance(module, TRACED_THROUGH) and not has_weights(module):
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
        if name == "dynamic_conv":
            return _dynamic_conv(x, y, **options)
        if name == "predict_coefficients":
            return _predicted(x, y, **options)
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


def _dynamic_conv(x, y, kernels, coefficients, fusion, precision, strides, kernel_dilation, **options):
    """A dynamic convolution that is no layer's: its kernels may be weights of the network."""
    if x.ndim != 4:
        return y
    for name, number in (("strides", strides), ("kernel_dilation", kernel_dilation)):
        options[name] = per_dimension(number, 2, name)

    def make(inputs, ys, bank):
        return Convolution("dynamic_conv", inputs[0], ys[0], Bank(bank), _no_bias(bank), inputs[1], **options)

    return _whole(Maker("dynamic_conv", make, constants=1), [x, coefficients, kernels], (y,))[0]


def _predicted(x, ys, weights, spec, features, dtype):
    """The predictor of an NNX layer (`dynet_jax.nnx`)."""

    def make(inputs, numbers, *arrays):
        *hidden, (kernel, bias) = zip(arrays[::2], arrays[1::2])
        output = kernel / np.float32(spec.temperature), bias / np.float32(spec.temperature)
        channels = tuple(map(spec.channels, features))
        first = hidden[0] if hidden else None
        return Predictor("predictor", inputs[0], numbers, first, output, spec.group_size, channels, spec.activation)

    arrays = [array for layer in weights for array in layer]
    return _whole(Maker("predictor", make, constants=len(arrays)), [x, *arrays], ys)


def _no_bias(kernel: np.ndarray) -> np.ndarray:
    return np.zeros(kernel.shape[-1], np.float32)


def _whole(maker, arguments, ys):
    return tuple(whole_p.bind(*arguments, maker=maker, avals=tuple(map(jax.typeof, ys))))
