"""The mathematics of dynamic convolution as pure functions of arrays, free of Flax."""

from dynet_jax.ops.conv import conv, conv_per_example
from dynet_jax.ops.dynamic_conv import choose_fusion, dynamic_conv, fuse_kernels
from dynet_jax.ops.normalized import Normalized, as_array, channel_sums

__all__ = [
    "Normalized",
    "as_array",
    "channel_sums",
    "choose_fusion",
    "conv",
    "conv_per_example",
    "dynamic_conv",
    "fuse_kernels",
]
