"""DyNet: dynamic convolution for accelerating convolutional neural networks, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynet_jax.layers import BatchNorm, CoefficientPredictor, CoefficientSpec, DynamicConv
    from dynet_jax.models import create_model, list_models, register_model
    from dynet_jax.models.pretrained import load_pretrained
    from dynet_jax.pretrained import list_pretrained

__version__ = "0.2.0"
__all__ = [
    "BatchNorm",
    "CoefficientPredictor",
    "CoefficientSpec",
    "DynamicConv",
    "create_model",
    "list_models",
    "list_pretrained",
    "load_pretrained",
    "register_model",
]
PRETRAINED = {"list_pretrained": "pretrained", "load_pretrained": "models.pretrained"}


def __getattr__(name: str):
    """Imports JAX only when it is needed, and not for --help or in a process of another framework."""
    if name in ("layers", "models", "nnx", "ops"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in PRETRAINED:
        return getattr(importlib.import_module(f"{__name__}.{PRETRAINED[name]}"), name)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynet_jax import layers, models

    return getattr(layers if hasattr(layers, name) else models, name)
