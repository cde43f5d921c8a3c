"""The mathematics of dynamic convolution as pure functions of arrays, free of Flax."""

from dynet_jax.ops.conv import conv, conv_per_example
from dynet_jax.ops.dynamic_conv import dynamic_conv
from dynet_jax.ops.fusion import fuse_kernels
from dynet_jax.ops.xla import choose_fusion

__all__ = ["choose_fusion", "conv", "conv_per_example", "dynamic_conv", "fuse_kernels"]
