"""The network that a configuration describes."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from dynet_jax.errors import UserError
from dynet_jax.models import create_model, list_models
from dynet_jax.models.registry import default_arguments, model_info


def build_model(config: ml_collections.ConfigDict, bn_axis_name: str | None = None) -> nn.Module:
    """Returns the network of `config.model`.

    bn_axis_name: the mesh axis over which a BatchNorm group is sharded in training, if any (see
      `dynet_jax.devices.Layout`).
    Raises UserError for an unknown network or argument, or one for another task.
    """
    arguments = config.model.to_dict()
    name, task = arguments.pop("name"), config.task
    if model_info(name).task != task:
        others = ", ".join(list_models(task=task))
        raise UserError(f"{name} is a network for {model_info(name).task}, not for {task}; those are {others}")
    if config.model.num_classes is None:
        raise UserError("model.num_classes=None stands for the classes of a dataset; here it must be a number")
    if config.temperature_from is not None:
        if "temperature" not in default_arguments(name):
            raise UserError(f"temperature_from is for networks with predictors, and {name} is static; leave it None")
        arguments["annealed"] = True
    return create_model(
        name,
        **arguments,
        bn_batch_size=config.bn_batch_size,
        bn_axis_name=bn_axis_name,
        dtype=jnp.dtype(config.dtype),
    )
