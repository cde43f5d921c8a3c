"""What TPUs do differently: Pallas kernels, which keep maps in forms of their own between them.

XLA's forms move many times the bytes that a dynamic convolution has to, and XLA cannot see into a Pallas kernel: around
one, BatchNorm and activation would cost passes over the map of their own.
"""

import os

from dynet_jax.ops.backend import target_backend, target_device_kind
from dynet_jax.ops.tpu.dynamic import dynamic_conv
from dynet_jax.ops.tpu.feature_map import feature_map

LITTLE_VMEM = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")  # 16 MiB: blocks are made for 64 or more

__all__ = ["dynamic_conv", "feature_map", "serves"]


def serves() -> bool:
    """Returns whether the kernels run on the hardware that is traced for. DYNET_JAX_PALLAS=0 turns them off."""
    off = os.environ.get("DYNET_JAX_PALLAS") == "0"
    return target_backend() == "tpu" and not off and target_device_kind() not in LITTLE_VMEM
