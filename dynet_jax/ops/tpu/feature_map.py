"""Maps that the TPU's kernels exchange: normalised where they are read, and cut into strips where channels are few."""

import dataclasses
import math
from typing import Any

import jax

from dynet_jax.ops import deferred_map
from dynet_jax.ops.conv import conv
from dynet_jax.ops.maps import Operand, to_array
from dynet_jax.ops.partition import is_partitioned
from dynet_jax.ops.strips import cut_with_margins, strips_of
from dynet_jax.ops.tpu.dynamic import dynamic_conv_and_sums
from dynet_jax.ops.window import make_window, pad_explicitly


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DeferredMap(deferred_map.DeferredMap):
    """A deferred map whose kernels are the TPU's.

    >>> import jax.numpy as jnp
    >>> x = DeferredMap(jnp.ones((2, 4, 4, 3)), jnp.full((2, 3), 2.0), jnp.full((2, 3), -3.0), "relu")
    >>> x.shape, x.to_array().max().item()
    ((2, 4, 4, 3), 0.0)
    """

    convolve_and_sum = staticmethod(dynamic_conv_and_sums)

    def conv(self, kernel: Operand, options: dict[str, Any]) -> "DeferredMap":
        """Returns the static convolution; its result is cut at once if it is larger than what it is computed from.

        That is the stem: XLA would otherwise change the layout of the network's largest map.
        """
        x = self.to_array()
        size, sides = kernel.shape[:-2], (options["strides"], options["padding"], options["kernel_dilation"])
        window = make_window(x.shape, size, *sides)
        shape = (x.shape[0], *window.output_shape(x.shape[1:-1]), kernel.shape[-1])
        strips = None if is_partitioned(x) or math.prod(shape) <= x.size else strips_of(shape)
        if strips in (None, 1):
            return DeferredMap(to_array(conv(x, kernel, **options)))
        padded, window = pad_explicitly(x, window)
        margins = cut_with_margins(to_array(padded), window, strips)
        y = conv(margins, kernel, **options | {"padding": ((0, 0), window.padding[1])})
        return DeferredMap(to_array(y), strips=strips)


def feature_map(x: jax.Array) -> DeferredMap:
    """Returns an array as the map that the kernels exchange."""
    return DeferredMap(x)
