"""What training carries from step to step."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Step count (int32), parameters, BatchNorm statistics and the optimiser's state (float32), on every device."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module, optimizer: optax.GradientTransformation, *, seed: int, image_size: int, sharding=None
) -> TrainState:
    """A fresh state; a pure function of the seed, whatever the devices.

    `sharding` says where it lies; None is JAX's default device.
    """
    # It runs once: on a CPU, where optimising hundreds of random generators takes half a minute, do without.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    initialise = jax.jit(_initialiser(model, optimizer, image_size), out_shardings=sharding, compiler_options=quick)
    return initialise(jax.random.key(seed))


def state_shapes(model: nn.Module, optimizer: optax.GradientTransformation, *, image_size: int) -> TrainState:
    """The shapes and types of `create_state`'s arrays, without computing them."""
    return jax.eval_shape(_initialiser(model, optimizer, image_size), jax.random.key(0))


def _initialiser(model, optimizer, image_size):
    def initialise(key):
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), optimizer.init(params))

    return initialise
