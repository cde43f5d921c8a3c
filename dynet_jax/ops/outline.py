"""An implementation for `jax.eval_shape` and for recording: results have the right shapes and types, and no meaning."""

import contextlib
import itertools
from collections.abc import Iterator

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from dynet_jax.ops.backend import target_backend, tracing_for
from dynet_jax.ops.conv import conv
from dynet_jax.ops.maps import Map, to_array

OUTLINE = "outline"
_numbers = itertools.count()


@contextlib.contextmanager
def tracing_outlines() -> Iterator[None]:
    """Trace for shapes alone, which takes half the time for a dynamic network. What is traced must not be computed.

    JAX keeps what it has traced of functions under `jax.jit`; what is traced here is for this time alone.
    """
    with tracing_for(OUTLINE), set_xla_metadata(dynet_jax_outline=next(_numbers)):
        yield


def serves() -> bool:
    """Returns whether only shapes are asked for."""
    return target_backend() == OUTLINE


def feature_map(x: Map) -> Map:
    """The array itself."""
    return x


def dynamic_conv(x: jax.Array, kernels: jax.Array, coefficients: jax.Array, fusion: str, options: dict) -> jax.Array:
    """A convolution of the same shape."""
    return to_array(conv(x, kernels[0].astype(x.dtype), **options))
