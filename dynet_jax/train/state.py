"""The state that training carries from step to step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.train.movement import by_stage


class TrainState(flax.struct.PyTreeNode):
    """Step count (int32), parameters, BatchNorm statistics and the optimiser's state (float32), on every device.

    `ema` holds moving averages of the parameters and statistics, structured like `variables`; {} if there are none.
    `coefficients` holds running means over the data of a dynamic network's coefficients, {stage: [n]}, from which their
    movement is measured (see `dynet_jax.train.movement`); 0 where none have been seen.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = flax.struct.field(default_factory=dict)
    coefficients: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """Returns the variables that are trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def averaged_variables(self) -> dict[str, Any]:
        """Returns the variables for evaluation and use: the moving averages if there are any."""
        return self.ema or self.variables


def make_initialiser(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    image_size: int,
    with_ema: bool = False,
    sharding=None,
) -> Callable[[int], TrainState]:
    """Returns a function from a seed to a new state, independent of the devices and compiled at the first call.

    `sharding` is the sharding of the state; None is JAX's default device.
    """
    # It runs only once. On a CPU, optimising hundreds of random generators would take half a minute, so it is disabled.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    initialise = _initialiser(model, optimizer, image_size, with_ema)
    compiled = jax.jit(initialise, out_shardings=sharding, compiler_options=quick)
    return lambda seed: compiled(jax.random.key(seed))


def state_shapes(
    model: nn.Module, optimizer: optax.GradientTransformation, *, image_size: int, with_ema: bool = False
) -> TrainState:
    """Returns the shapes and types of a new state's arrays, without computing them."""
    return jax.eval_shape(_initialiser(model, optimizer, image_size, with_ema), jax.random.key(0))


def _initialiser(model, optimizer, image_size, with_ema):
    def initialise(key):
        with sown_coefficients():
            variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        coefficients = by_stage(named_coefficients(variables.get(COLLECTION, {})), images=1)
        coefficients = {stage: jnp.zeros(values.shape[1:]) for stage, values in coefficients.items()}
        state = TrainState(
            jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), coefficients=coefficients
        )
        return state.replace(ema=state.variables) if with_ema else state

    return initialise
