"""DyNet: dynamic convolution for accelerating convolutional neural networks, in JAX and Flax."""

from dynet_jax.layers import BatchNorm, CoefficientPredictor, CoefficientSpec, DynamicConv
from dynet_jax.models import create_model, list_models, register_model

__version__ = "0.1.0"
__all__ = [
    "BatchNorm",
    "CoefficientPredictor",
    "CoefficientSpec",
    "DynamicConv",
    "create_model",
    "list_models",
    "register_model",
]
