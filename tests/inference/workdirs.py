"""Work directories as training would leave them, without training."""

import jax
import jax.numpy as jnp
import optax

from dynet_jax import create_model
from dynet_jax.config.recipe import paper_recipe
from dynet_jax.train.setup import make_run_optimizer
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import claim
from tests.models.trained import trained_variables


def make_workdir(folder, classes, *, size=48, resize_to=56, dataset="imagenet2012", network="dy_mobile"):
    """Of a small network that computes in float32."""
    arguments = {"num_classes": len(classes), "width": 0.1, "small_input": True}
    config = paper_recipe(network, **arguments)
    config.data.update({"name": dataset, "image_size": size, "resize_to": resize_to})
    config.dtype = "float32"
    variables = jax.tree.map(jnp.asarray, trained_variables(create_model(network, **arguments), size))
    params = variables["params"]
    optimizer = make_run_optimizer(config, optax.constant_schedule(0.1))
    claim(folder, config.lock(), list(classes))
    checkpoints = Checkpoints(folder)
    state = TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))
    checkpoints.save(state, wait=True)
    checkpoints.close()
    return folder
