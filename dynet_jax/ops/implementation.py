"""Who computes the operations of this package on the hardware that a program is traced for.

An implementation is a module with `serves()`, `feature_map(x)` and `dynamic_conv(x, kernels, coefficients, fusion,
options)`. `dynet_jax.ops.xla` serves any hardware; the others, a folder each, are named below.
`dynet_jax.ops.outline` is for shapes alone.
"""

from types import ModuleType

import jax

from dynet_jax.ops import gpu, outline, tpu, xla
from dynet_jax.ops.maps import Map

IMPLEMENTATIONS = (outline, tpu, gpu, xla)  # in order of preference


def implementation() -> ModuleType:
    """Returns the first one that serves the hardware; the only place that asks."""
    return next(candidate for candidate in IMPLEMENTATIONS if candidate.serves())


def feature_map(x: Map) -> Map:
    """Returns a map in the form that dynamic convolutions in training read best: opaque, or the array itself."""
    return implementation().feature_map(x) if isinstance(x, jax.Array) else x
