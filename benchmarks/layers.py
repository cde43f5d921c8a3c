"""The layers to be timed: every dynamic convolution of a network, its inputs, and its expected result."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.forms import STATIC, form_function, is_distinct
from benchmarks.timing import random_array
from dynet_jax import DynamicConv, create_model, list_models

GROUP_SIZE = 6
PASSES = ("forward", "gradient")

# DyNet's own: its peers have coefficients of another shape.
NETWORKS = [name for name in list_models("dy_*") if not name.startswith("dy_cnn")]


class Layer(NamedTuple):
    """A convolution of square images; networks with the same one share it."""

    size: int
    kernel_size: int
    c_in: int
    c_out: int
    strides: int
    groups: int

    def __str__(self):
        text = f"{self.kernel_size}x{self.kernel_size} {self.c_in}->{self.c_out}, {self.size}x{self.size}"
        text += f", groups {self.groups}" if self.groups > 1 else ""
        return text + (f", stride {self.strides}" if self.strides > 1 else "")

    def has(self, form: str) -> bool:
        """Returns whether the form is distinct for this layer."""
        return is_distinct(form, self.kernel_size, self.groups, self.c_in)


def dynamic_layers(network: str, width: float, image_size: int) -> list[Layer]:
    """Returns the dynamic convolutions of a model, recorded from its shapes without computing anything."""
    layers = []

    def record(next_call, args, kwargs, context):
        conv = context.module
        if isinstance(conv, DynamicConv) and context.method_name == "__call__":
            _, size, _, c_in = args[0].shape
            groups = conv.feature_group_count
            layers.append(Layer(size, conv.kernel_size[0], c_in, conv.features, conv.strides, groups))
        return next_call(*args, **kwargs)

    model = create_model(network, width=width)
    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32))
    return layers


def layers_of(networks: Sequence[str], width: float, image_size: int) -> dict[Layer, list[str]]:
    """Returns distinct layers and their networks; networks alternate, so that a time limit cuts all equally."""
    found = {network: dict.fromkeys(dynamic_layers(network, width, image_size)) for network in networks}
    in_turns = [layer for layers in itertools.zip_longest(*found.values()) for layer in layers if layer is not None]
    return {layer: [name for name in networks if layer in found[name]] for layer in in_turns}


def layer_inputs(layer: Layer, batch: int, dtype=jnp.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x, the bank of kernels and the coefficients."""
    shape = (layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    shapes = (batch, layer.size, layer.size, layer.c_in), (GROUP_SIZE, *shape), (batch, GROUP_SIZE, layer.c_out)
    return tuple(random_array(shape).astype(dtype) for shape in shapes)


def operands_of(form: str, inputs: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns the form's arguments: a static one has the first kernel of the bank, and no coefficients."""
    x, kernels, coefficients = inputs
    return (x, kernels[0]) if form in STATIC else (x, kernels, coefficients)


def layer_function(form: str, layer: Layer, which: str) -> Callable:
    """Returns the form as a function of its operands, or the gradient of its squares' sum in all of them."""

    def forward(*operands):
        return form_function(form)(*operands, strides=layer.strides, feature_group_count=layer.groups)

    def gradient(*operands):
        numbers = tuple(range(len(operands)))
        return jax.grad(lambda *arrays: jnp.sum(jnp.square(forward(*arrays))), argnums=numbers)(*operands)

    return {"forward": forward, "gradient": gradient}[which]


@jax.jit
def largest_error(results, expected) -> jax.Array:
    """Returns the largest error of any entry, relative to the largest entry expected in its array."""

    def error(result, wanted):
        wanted = wanted.astype(jnp.float32)
        return jnp.max(jnp.abs(result.astype(jnp.float32) - wanted)) / jnp.max(jnp.abs(wanted))

    return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(error, results, expected))))
