"""The paper's networks and their static twins, by name."""

from dynet_jax.models import fcn, mobilenet, mobilenet_v3, resnet, shufflenet  # noqa: F401  (each registers its networks)
from dynet_jax.models.registry import create_model, list_models, register_model
from dynet_jax.models.torch_weights import create_from_torch

__all__ = ["create_from_torch", "create_model", "list_models", "register_model"]
