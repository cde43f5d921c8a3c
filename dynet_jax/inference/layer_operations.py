"""Which operation of a program each layer is, with its weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.inference.bank import Bank
from dynet_jax.inference.program import Convolution, Dense, Normalization, Operation, Predictor
from dynet_jax.layers import BatchNorm, CoefficientPredictor, Conv, DynamicConv
from dynet_jax.layers.predictor import LIMIT, TEMPERATURE, pooled_range
from dynet_jax.ops.window import per_dimension

CONVOLUTIONS = (Conv, nn.Conv, DynamicConv)
LAYERS = (*CONVOLUTIONS, BatchNorm, nn.BatchNorm, CoefficientPredictor, nn.Dense)
# Fields of Flax's layers, by which another function does the work.
REPLACED = ("conv_general_dilated", "conv_general_dilated_cls", "dot_general", "dot_general_cls")


class Maker(NamedTuple):
    """Makes the operation of a layer, of the numbers of its inputs and outputs.

    constants: how many of its last inputs are arrays, which `make` takes behind the numbers.
    """

    name: str
    make: Callable[..., Operation]
    constants: int = 0


def maker_of(module: nn.Module, x: jax.Array) -> Maker:
    """The maker of a layer that is called with x. Raises UserError for a layer with an option that programs lack."""
    name = "/".join(module.path)
    if any(getattr(module, field, None) is not None for field in REPLACED):
        raise UserError(f"{name} computes by a function of its own ({', '.join(REPLACED)}), which programs do not have")
    params, stats = _arrays(module, "params"), _arrays(module, "batch_stats")
    if type(module) in CONVOLUTIONS:
        return Maker(name, _convolution(name, module, params))
    if type(module) is CoefficientPredictor:
        return Maker(name, lambda inputs, ys: _predictor(name, module, params, stats, inputs, ys))
    if type(module) is nn.Dense:
        bias = params.get("bias", np.zeros(module.features, np.float32))
        return Maker(name, lambda inputs, ys: Dense(name, inputs[0], ys[0], params["kernel"], bias))
    return Maker(name, _normalization(name, module, params, stats, x))


def has_weights(module: nn.Module) -> bool:
    """Returns whether the weights of a layer are known, which they are not within a transformation such as nn.remat."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(dict(module.variables)))


def _arrays(module, collection) -> dict[str, Any]:
    variables = dict(module.variables.get(collection, {}))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables)):
        raise UserError(
            f"the weights of {'/'.join(module.path)} are made by the network itself, or it is within nn.remat, nn.jit "
            "or nn.scan, which programs do not have"
        )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)


def _convolution(name, module, params):
    options = _convolution_options(name, module)
    kernel = Bank(params["kernels"]) if type(module) is DynamicConv else params["kernel"]
    bias = params.get("bias", np.zeros(kernel.shape[-1], np.float32))
    return lambda inputs, ys: Convolution(name, inputs[0], ys[0], kernel, bias, *inputs[1:], **options)


def _convolution_options(name, module) -> dict[str, Any]:
    unusual = getattr(module, "mask", None) is not None or getattr(module, "input_dilation", 1) not in (1, None)
    if unusual or getattr(module, "kernel_size", None) is None:
        raise UserError(f"{name} has a mask or an input_dilation, which programs do not have")
    rank = 1 if isinstance(module.kernel_size, int) else len(module.kernel_size)
    if rank != 2:
        raise UserError(f"{name} is a convolution in {rank} dimensions; programs are of images")
    return {
        "strides": per_dimension(module.strides, rank, "strides"),
        "padding": module.padding,
        "kernel_dilation": per_dimension(module.kernel_dilation, rank, "kernel_dilation"),
        "feature_group_count": module.feature_group_count,
    }


def _predictor(name, module, params, stats, inputs, ys):
    linear = {key: (params[key]["kernel"], params[key]["bias"]) for key in ("hidden", "coefficients") if key in params}
    spec = module.resolved
    if spec.normalize_pooled:  # a scale and a shift of the pooled features, which its first layer can do as well
        first = "hidden" if "hidden" in linear else "coefficients"
        linear[first] = _after_norm(name, module.norm(parent=None), params, stats, *linear[first])
    temperature = stats[TEMPERATURE] if spec.annealed else np.float32(spec.temperature)
    output = tuple(array / temperature for array in linear["coefficients"])
    features = tuple(map(spec.channels, module.features))
    limits = None
    if spec.pooled_limit is not None:
        limits = pooled_range(stats[LIMIT]["mean"], stats[LIMIT]["var"], spec.pooled_limit)
    return Predictor(
        name, inputs[0], ys, linear.get("hidden"), output, spec.group_size, features, spec.activation, limits
    )


def _after_norm(name, norm, params, stats, kernel, bias):
    """Kernel and bias of a linear layer with the BatchNorm before it folded in."""
    if type(norm) not in (BatchNorm, nn.BatchNorm) or getattr(norm, "axis", -1) not in (-1, 1):
        raise UserError(
            f"{name} normalises pooled features by {type(norm).__name__}; programs have BatchNorm of channels alone"
        )
    scale, shift = _scale_and_shift(norm, params.get("norm", {}), stats["norm"], kernel.shape[0])
    return kernel * scale[:, None], bias + shift @ kernel


def _normalization(name, module, params, stats, x):
    if getattr(module, "axis", -1) not in (-1, x.ndim - 1):
        raise UserError(
            f"{name} normalises along axis {module.axis}; programs have BatchNorm of channels, axis=-1, alone"
        )
    scale, shift = _scale_and_shift(module, params, stats, x.shape[-1])
    return lambda inputs, ys: Normalization(name, inputs[0], ys[0], scale, shift)


def _scale_and_shift(norm, params, stats, features):
    one, zero = np.ones(features, np.float32), np.zeros(features, np.float32)
    scale = params.get("scale", one) / np.sqrt(stats["var"] + norm.epsilon)
    return scale, params.get("bias", zero) - stats["mean"] * scale
