"""What training carries from step to step."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Step count, parameters, BatchNorm statistics and the optimiser's state; all float32, on every device."""

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

    def init(key):
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), optimizer.init(params))

    # It runs once: on a CPU, where optimising hundreds of random generators takes half a minute, do without.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    return jax.jit(init, out_shardings=sharding, compiler_options=quick)(jax.random.key(seed))
