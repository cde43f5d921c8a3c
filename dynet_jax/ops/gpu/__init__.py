"""What GPUs do differently: Pallas kernels, compiled by Triton, which normalise what they read and sum what they write.

They have been compiled and interpreted, and have not run on a GPU. Until they have been measured, they are used where
DYNET_JAX_GPU_KERNELS=1 asks for them, and nowhere else.
"""

import os

from dynet_jax.ops.backend import target_backend
from dynet_jax.ops.gpu.dynamic import dynamic_conv
from dynet_jax.ops.gpu.feature_map import feature_map

__all__ = ["dynamic_conv", "feature_map", "serves"]


def serves() -> bool:
    """Returns whether the kernels are asked for on the GPU that is traced for. DYNET_JAX_PALLAS=0 turns them off."""
    wanted = os.environ.get("DYNET_JAX_GPU_KERNELS") == "1" and os.environ.get("DYNET_JAX_PALLAS") != "0"
    return target_backend() == "gpu" and wanted
