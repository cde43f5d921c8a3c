"""Multiply-adds of NNX networks: they have no interceptors, so that their traced program is counted."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dynet_jax.inference.activations import called
from dynet_jax.inference.read_trace import whole_p
from dynet_jax.inference.record import traced_evaluation

Row = tuple[str, tuple[int, ...], int, int, int, int]  # kind, output shape, convolution, fusion, predictor, classifier


def nnx_rows(model: Any, input_shape: Sequence[int]) -> Iterator[Row]:
    """Yields the rows of all convolutions, predictors and products with weights of a network in evaluation.

    input_shape: [height, width, channels] of one image.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    yield from _rows(traced_evaluation(model, None, images).jaxpr)


def nnx_parameters(model: Any) -> int:
    """Returns how many parameters the network has."""
    from flax import nnx  # which takes long to import

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _rows(jaxpr) -> Iterator[Row]:
    for equation in _needed(jaxpr):
        inner = called(equation)
        if inner is not None:
            yield from _rows(inner)
            continue
        shapes, y = [variable.aval.shape for variable in equation.invars], equation.outvars[0].aval.shape
        name = equation.primitive.name
        if equation.primitive is whole_p:
            yield from _whole_row(equation, shapes, y)
        elif name == "conv_general_dilated":
            size, inputs, outputs = _kernel(equation.params["dimension_numbers"].rhs_spec, shapes[1])
            macs = math.prod(size) * inputs * outputs * math.prod(y[1:-1])
            yield f"static {'x'.join(map(str, size))}", y[1:], macs, 0, 0, 0
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            macs = math.prod(y[1:]) * math.prod(shapes[0][axis] for axis in contracted)
            yield "classifier", y[1:], 0, 0, 0, macs


def _kernel(spec, shape) -> tuple[tuple[int, ...], int, int]:
    """The positions, inputs of a group, and outputs of a kernel."""
    return tuple(shape[axis] for axis in spec[2:]), shape[spec[1]], shape[spec[0]]


def _whole_row(equation, shapes, y) -> Iterator[Row]:
    name = equation.params["maker"].name
    if name == "dynamic_conv":
        *_, bank = shapes
        positions = math.prod(y[1:-1])
        kind = f"dynamic {'x'.join(map(str, bank[1:-2]))}"
        yield kind, y[1:], math.prod(bank[1:]) * positions, math.prod(bank), 0, 0
    elif name == "predictor":
        for kernel in shapes[1::2]:
            yield "predictor", (kernel[-1],), 0, 0, math.prod(kernel), 0


def _needed(jaxpr) -> list:
    """The equations that the results need: what a layer is made of is in the trace beside the layer itself."""
    needed, kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    return kept[::-1]
