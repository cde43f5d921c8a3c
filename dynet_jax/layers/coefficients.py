"""Reading and replacing the coefficients of a network from outside, without any support in the network's code.

Coefficients are named after the convolution that uses them, such as 'stage3_block1/spatial', whether a predictor serves
a block or a single layer. Those of a convolution's second call in one pass are named 'NAME (2)', and so on.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array
from jaxtyping import Float, Float32

from dynet_jax.layers.call_options import call_options
from dynet_jax.layers.dynamic import DynamicConv
from dynet_jax.layers.predictor import CoefficientPredictor
from dynet_jax.ops.maps import Operand

COLLECTION, _NAME = "dynet_coefficients", "of_this_layer"


def sown_coefficients() -> contextlib.AbstractContextManager:
    """Returns a context in which `model.apply(..., mutable=[COLLECTION])` collects a network's coefficients.

    `named_coefficients` reads the collection. They are sown as variables, because they have to leave rematerialised
    blocks as results.
    """
    return nn.intercept_methods(_sow)


def named_coefficients(collection: Mapping) -> Iterator[tuple[str, Float32[Array, "batch group_size coefficients"]]]:
    """Yields the name and the coefficients of each convolution: one per output channel, or one for all of them.

    They come in the order in which they are computed, except that JAX sorts those of rematerialised blocks by name.

    >>> import jax, jax.numpy as jnp
    >>> layer, x = DynamicConv(8, (3, 3)), jnp.ones((2, 4, 4, 3))
    >>> with sown_coefficients():
    ...     _, variables = layer.init_with_output(jax.random.key(0), x)
    >>> [(name, values.shape) for name, values in named_coefficients(variables[COLLECTION])]
    [('network', (2, 6, 8))]
    """
    flat: Any = flatten_dict(dict(collection))
    for (*path, _), calls in flat.items():
        for number, values in enumerate(calls, start=1):
            yield _call("/".join(path), number), values.astype(jnp.float32)


def per_image(values: Array, images: int) -> Array:
    """Returns the mean over the k rows of each image: [images x k, ...] -> [images, ...]."""
    return values.reshape(images, -1, *values.shape[1:]).mean(axis=1) if values.shape[0] != images else values


def predicted_coefficients(
    model: nn.Module, variables: Mapping, images: Float[Operand, "batch height width channels"]
) -> dict[str, Float32[Array, "batch group_size coefficients"]]:
    """Returns a network's coefficients in evaluation, named and ordered as `named_coefficients`; {} if it is static."""
    with sown_coefficients():
        _, sown = model.apply(variables, images, **call_options(model), mutable=[COLLECTION])
    collection: Any = sown.get(COLLECTION, {})
    return dict(named_coefficients(collection))


@contextlib.contextmanager
def replaced_coefficients(coefficients: Mapping[str, Array]) -> Iterator[set[str]]:
    """A context in which one pass of a network uses these coefficients instead of those that it predicts.

    coefficients: {name: values that broadcast to [batch, group_size, features or 1]}. Names that are missing here keep
    the predicted coefficients. Yields a set that contains the replaced names once the pass is over.
    """
    calls: Counter = Counter()
    done: set[str] = set()

    def replaced(module, own):
        name = "/".join(module.path)
        calls[name] += 1
        name = _call(name, calls[name])
        if name not in coefficients:
            return own
        done.add(name)
        return jnp.broadcast_to(coefficients[name], own.shape).astype(own.dtype)

    def intercept(call, arguments, keywords, context):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, DynamicConv):
            own, with_others = _given(arguments, keywords)
            if own is not None:
                arguments, keywords = with_others(replaced(module, own))
        outputs = call(*arguments, **keywords)
        if _serves_one_layer(context):
            return (replaced(module.parent, outputs[0]),)
        return outputs

    with nn.intercept_methods(intercept):
        yield done


def _sow(call, arguments, keywords, context):
    outputs = call(*arguments, **keywords)
    if _serves_one_layer(context):
        context.module.parent.sow(COLLECTION, _NAME, outputs[0])
    elif context.method_name == "__call__" and isinstance(context.module, DynamicConv):
        own, _ = _given(arguments, keywords)
        if own is not None:
            context.module.sow(COLLECTION, _NAME, own)
    return outputs


def _serves_one_layer(context) -> bool:
    module = context.module
    return (
        context.method_name == "__call__"
        and isinstance(module, CoefficientPredictor)
        and isinstance(module.parent, DynamicConv)
    )


def _given(arguments, keywords):
    """Returns the coefficients that DynamicConv is called with, or None, and a function that exchanges them."""
    if len(arguments) > 1:
        return arguments[1], lambda other: ((arguments[0], other, *arguments[2:]), keywords)
    return keywords.get("coefficients"), lambda other: (arguments, {**keywords, "coefficients": other})


def _call(name: str, number: int) -> str:
    name = name or "network"
    return name if number == 1 else f"{name} ({number})"
