"""The paper's networks and their static twins, by name. Every module here is imported, and may register networks."""

import importlib
import pkgutil

from dynet_jax.models.registry import create_model, list_models, register_model
from dynet_jax.models.torch_weights import create_from_torch

__all__ = ["create_from_torch", "create_model", "list_models", "register_model"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
