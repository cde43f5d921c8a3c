"""What the Pallas kernels of all hardware share: shapes that vary over devices, and the rule of a custom VJP."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def like(x: jax.Array, shape: tuple[int, ...], dtype=None) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of an output that varies, inside `shard_map`, over the devices that x varies over.

    How it says so changes with JAX, so it is asked of JAX.
    """
    return jax.eval_shape(lambda x: jnp.broadcast_to(x.ravel()[0], shape).astype(dtype or x.dtype), x)


def forward_rule(convolve: Callable) -> Callable:
    """Returns the forward rule of the custom VJP of `convolve(*operands, activation, with_sums, plan)` -> (y, sums).

    It saves the operands, and y if its sums are asked for: their gradient needs it.
    """

    def forward(*arguments):
        (*operands, _, with_sums, _), (y, sums) = arguments, convolve(*arguments)
        return (y, sums), (*operands, y if with_sums else None)

    return forward


def vary_alike(*arrays: jax.Array | None) -> list[Any]:
    """Returns the arrays, None as it is, as ones that all vary over devices, inside `shard_map`, if one of them does.

    The gradient of one that did not vary is then summed over devices, as it has to be.
    """
    zeros = [jnp.zeros_like(array.ravel()[0], dtype=jnp.float32) for array in arrays if array is not None]
    zero = functools.reduce(operator.add, zeros)
    return [None if array is None else array + zero.astype(array.dtype) for array in arrays]
