"""Ahead-of-time compilation of both steps of a run: a lack of memory is found at the start, not hours later."""

import json
import time
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.stages import Wrapped

from dynet_jax.console import duration
from dynet_jax.evaluation.evaluate import evaluation_batch_size
from dynet_jax.evaluation.step import make_eval_step
from dynet_jax.train.interruption import StopVote
from dynet_jax.train.setup import Run
from dynet_jax.train.state import TrainState
from dynet_jax.train.step import make_train_step

Compiled: TypeAlias = tuple[Callable, Callable, str]  # training step, evaluation step, their compilation time


class Programs:
    """A run's compiled programs, kept for further runs in the same process that differ only in the seed."""

    def __init__(self):
        self._key: str | None = None
        self._initialise: Callable[[int], TrainState] | None = None
        self._steps: Compiled | None = None

    def fresh_state(self, run: Run) -> TrainState:
        """Returns the state at step 0, on every device."""
        self._be_for(run)
        if self._initialise is None:
            self._initialise = run.initialiser()
        return self._initialise(run.config.seed)

    def steps(self, run: Run, state: TrainState, test_examples: int, vote: StopVote) -> Compiled | None:
        """Returns the result of `compile_steps`, compiled at most once."""
        self._be_for(run)
        if self._steps is None:
            self._steps = compile_steps(run, state, test_examples, vote)
        return self._steps

    def _be_for(self, run: Run) -> None:
        key = json.dumps({**run.config.to_dict(), "seed": None, "total": run.total_steps}, sort_keys=True)
        if key != self._key:
            self._key, self._initialise, self._steps = key, None, None


def compile_steps(run: Run, state: TrainState, test_examples: int, vote: StopVote) -> Compiled | None:
    """Returns the compiled training and evaluation steps and their compilation time; None if a signal came earlier.

    The training step is (state, batch) -> (state, sums): the rates of the run's schedules are computed in a program of
    their own, so that runs with different schedules share the large one.
    """
    start = time.perf_counter()
    compiled = vote.run(
        *(
            lambda step=step, arguments=arguments: step.lower(*arguments).compile()
            for step, arguments in steps_and_arguments(run, state, test_examples, with_votes=not vote.alone)
        )
    )
    if compiled is None:
        return None
    run.rates(state.step)  # compiles it, which takes part of a second
    train_step, eval_step = compiled
    took = duration(time.perf_counter() - start)
    return lambda state, batch: train_step(state, batch, run.rates(state.step)), eval_step, took


def steps_and_arguments(
    run: Run, state: TrainState, test_examples: int, *, with_votes: bool
) -> tuple[tuple[Wrapped, tuple], tuple[Wrapped, tuple]]:
    """Returns the training and the evaluation step as jitted functions, each with the arguments to call it with.

    The state may consist of shapes. `with_votes` is for several hosts (see `StopVote`).
    """
    config, task = run.config, run.task

    def shapes(examples, *, training, **more):
        values = {k: ((examples, *v.shape), v.dtype) for k, v in task.blank(training=training).items()} | more
        sharding = run.layout.batch_sharding
        return {key: jax.ShapeDtypeStruct(*value, sharding=sharding) for key, value in values.items()}

    stop = {"stop": ((run.layout.mesh.size,), jnp.int32)} if with_votes else {}
    examples = evaluation_batch_size(run, test_examples)
    train_step = make_train_step(
        run.model,
        run.optimizer,
        run.layout,
        task,
        ema_decay=config.ema_decay,
        mixing=run.mixing,
        **run.pixels,
    )
    rates = run.layout.replicated_shapes(jax.eval_shape(run.rates, state.step))
    eval_step = make_eval_step(run.model, run.layout, task, **run.pixels)
    return (
        (train_step, (state, shapes(config.batch_size, training=True, **stop), rates)),
        (
            eval_step,
            (state.averaged_variables, shapes(examples, training=False, mask=((examples,), jnp.float32), **stop)),
        ),
    )
