"""The functions of `Elementwise` operations, and which of them only scale and shift channels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dynet_jax.inference.program import Elementwise
from dynet_jax.ops.maps import ACTIVATIONS

# The primitives of traced networks whose operands are those of a function of this file, and that function's name.
OF_PRIMITIVES = {
    "add": "add", "add_any": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum",
    "min": "minimum", "pow": "power", "gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal",
    "eq": "equal", "ne": "not_equal", "and": "logical_and", "or": "logical_or", "not": "logical_not",
    "logistic": "sigmoid", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh",
    "erf": "erf", "erfc": "erfc", "sqrt": "sqrt", "rsqrt": "rsqrt", "abs": "abs", "neg": "negative", "sign": "sign",
    "floor": "floor", "ceil": "ceil", "sin": "sin", "cos": "cos", "square": "square",
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    **{name: getattr(jnp, name) for name in OF_PRIMITIVES.values() if hasattr(jnp, name)},
    "erf": lax.erf,
    "erfc": lax.erfc,
    "rsqrt": lax.rsqrt,
    "where": jnp.where,  # (condition, what holds where it is true, what where it is false)
    "identity": lambda x: x,
    **ACTIVATIONS,
}


def scale_and_shift(operation: Elementwise, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the factor and the summand of each channel, [channels] each, if that is what the operation does.

    >>> scale_and_shift(Elementwise("", (0,), 1, "subtract", (np.float32(2), None)), 3)
    (array([-1., -1., -1.], dtype=float32), array([2., 2., 2.], dtype=float32))
    """
    constant: Any = next((array for array in operation.constants if array is not None), np.float32(0))
    of_one = len(operation.inputs) == 1 and constant.ndim <= 1
    if not of_one or len(operation.constants) != (operation.function != "negative") * 2:
        return None
    first = operation.constants[:1] == (None,)  # whether the value comes before the constant
    with np.errstate(divide="ignore"):
        found: Any = {
            "negative": (-1.0, 0.0),
            "add": (1.0, constant),
            "multiply": (constant, 0.0),
            "subtract": (1.0, -constant) if first else (-1.0, constant),
            "divide": (1 / constant, 0.0) if first else None,
        }.get(operation.function)
    if found is None or not all(np.isfinite(numbers).all() for numbers in found):
        return None
    scale, shift = (np.broadcast_to(np.asarray(n, np.float32), (channels,)) for n in found)
    return scale, shift
