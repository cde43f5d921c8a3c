"""Both steps of a run compiled ahead of the first one, so that nothing is compiled, or found too large, hours later."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dynet_jax.train.evaluate import evaluation_batch_size
from dynet_jax.train.interruption import StopVote
from dynet_jax.train.progress import duration
from dynet_jax.train.setup import Run
from dynet_jax.train.state import TrainState
from dynet_jax.train.step import make_eval_step, make_train_step


def compile_steps(
    run: Run, state: TrainState, test_examples: int, vote: StopVote
) -> tuple[Callable, Callable, str] | None:
    """The compiled training and evaluation step, and how long it took; None if a signal came before the end."""
    config, size = run.config, run.config.data.image_size

    def shapes(examples, **more):
        values = {"image": ((examples, size, size, 3), jnp.uint8), "label": ((examples,), jnp.int32), **more}
        sharding = run.layout.batch_sharding
        return {key: jax.ShapeDtypeStruct(*value, sharding=sharding) for key, value in values.items()}

    stop = {} if vote.alone else {"stop": ((run.layout.mesh.size,), jnp.int32)}
    examples = evaluation_batch_size(run, test_examples)
    train_step = make_train_step(
        run.model,
        run.optimizer,
        run.layout,
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        **run.pixels,
    )
    eval_step = make_eval_step(run.model, run.layout, **run.pixels)
    start = time.perf_counter()
    compiled = vote.run(
        lambda: train_step.lower(state, shapes(config.batch_size, **stop)).compile(),
        lambda: eval_step.lower(
            state.averaged_variables, shapes(examples, mask=((examples,), jnp.float32), **stop)
        ).compile(),
    )
    return None if compiled is None else (*compiled, duration(time.perf_counter() - start))
