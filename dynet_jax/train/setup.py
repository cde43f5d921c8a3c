"""The objects of a training run, made from a configuration."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dynet_jax.config.network import build_model
from dynet_jax.config.relations import chosen_optimizer_arguments
from dynet_jax.data.cache import CachedSource
from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.data.record import Source
from dynet_jax.devices import Layout
from dynet_jax.errors import UserError
from dynet_jax.evaluation.placed import PlacedNetwork
from dynet_jax.models.registry import default_arguments
from dynet_jax.tasks.task import make_task
from dynet_jax.train.image_mixing import ImageMixing
from dynet_jax.train.optim import make_optimizer, with_learning_rate
from dynet_jax.train.schedule import make_schedule, make_temperature_schedule
from dynet_jax.train.state import TrainState, make_initialiser, state_shapes

MOST_STEPS = 2**31  # a step is an int32


@dataclasses.dataclass(frozen=True)
class Run(PlacedNetwork):
    """Everything that a configuration determines, given the data and the devices."""

    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    temperature: optax.Schedule | None  # of annealed predictors
    steps_per_epoch: int
    total_steps: int

    @property
    def annealed_at(self) -> int:
        """Returns the step at which the temperature of predictors stops changing; 0 if it never changes."""
        return 0 if self.temperature is None else round(self.config.temperature_epochs * self.steps_per_epoch)

    @functools.cached_property
    def rates(self) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """A jitted function from a state's step to the scalars that schedules determine in the next training step.

        They are 'learning_rate' and, if it changes, the 'temperature' of predictors.
        """
        schedules = {"learning_rate": self.schedule, "temperature": self.temperature}
        chosen = {name: schedule for name, schedule in schedules.items() if schedule is not None}

        def rates(step):
            return {name: jnp.asarray(schedule(step), jnp.float32) for name, schedule in chosen.items()}

        return jax.jit(rates, out_shardings=self.layout.replicated)

    @property
    def mixing(self) -> ImageMixing:
        """Returns the parameters of mixup and CutMix; none for a task without these keys."""
        return ImageMixing(self.config.get("mixup") or 0.0, self.config.get("cutmix") or 0.0)

    def initialiser(self) -> Callable[[int], TrainState]:
        """Returns a function from a seed to the state at step 0, on every device."""
        return make_initialiser(
            self.model,
            self.optimizer,
            image_size=self.task.init_size,
            with_ema=self.config.ema_decay is not None,
            sharding=self.layout.replicated,
        )

    def fresh_state(self) -> TrainState:
        """Returns the state at step 0, on every device."""
        return self.initialiser()(self.config.seed)

    def state_template(self) -> TrainState:
        """Returns shapes and shardings of the state, without computing it, as the target of a restore."""
        with_ema = self.config.ema_decay is not None
        shapes = state_shapes(self.model, self.optimizer, image_size=self.task.init_size, with_ema=with_ema)
        return self.layout.replicated_shapes(shapes)


def make_run(config: ml_collections.ConfigDict, train_examples: int, layout: Layout) -> Run:
    """Returns the run of a configuration.

    Raises UserError for an unknown model or argument, or a training set smaller than a batch.
    """
    steps_per_epoch, total_steps = count_steps(config, train_examples, layout.mesh.size)
    schedule = make_run_schedule(config, steps_per_epoch, total_steps)
    optimizer = make_run_optimizer(config, schedule)
    return Run(
        config,
        layout,
        build_model(config, layout.bn_axis_name),
        CorruptImages(config.data.max_corrupt),
        schedule=schedule,
        optimizer=optimizer,
        temperature=make_temperature(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def make_temperature(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.Schedule | None:
    """Returns the schedule from `temperature_from` to the network's own temperature; None if it is constant."""
    if config.temperature_from is None:
        return None
    end = config.model.get("temperature", default_arguments(config.model.name)["temperature"])
    if end == config.temperature_from:
        cure = "set the final one by --config.model.temperature=1" if end != 1 else "use --config.temperature_from=30"
        raise UserError(f"temperature_from={end:g} is also the final temperature of {config.model.name}; {cure}")
    return make_temperature_schedule(config.temperature_from, end, round(config.temperature_epochs * steps_per_epoch))


def count_steps(config: ml_collections.ConfigDict, train_examples: int, devices: int = 1) -> tuple[int, int]:
    """Returns (steps per epoch, steps of the run). Raises UserError for a training set smaller than a batch."""
    steps_per_epoch = train_examples // config.batch_size
    if steps_per_epoch == 0:
        parts = devices * config.accumulation_steps  # a batch is a multiple of them
        batch = max(parts, 2 ** max(0, train_examples.bit_length() - 4) // parts * parts)
        groups = config.bn_batch_size is not None and batch % config.bn_batch_size
        raise UserError(
            f"{config.data.name} has {train_examples} training images, fewer than batch_size={config.batch_size}; "
            f"use --config.batch_size={batch}" + (f" --config.bn_batch_size={batch}" if groups else "")
        )
    if not config.epochs * steps_per_epoch < MOST_STEPS:
        raise UserError(f"epochs={config.epochs:g} are more than 2^31 steps at {steps_per_epoch} an epoch; use fewer")
    return steps_per_epoch, max(1, round(config.epochs * steps_per_epoch))


def make_run_schedule(config: ml_collections.ConfigDict, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Returns the learning-rate schedule of the configuration."""
    warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), total_steps - 1)
    arguments = config.schedule_arguments.to_dict()
    return make_schedule(config.learning_rate, warmup_steps, total_steps, name=config.schedule, arguments=arguments)


def make_run_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of the configuration, with the learning rates of the schedule (`with_learning_rate`)."""
    make = functools.partial(
        make_optimizer,
        name=config.optimizer,
        arguments=chosen_optimizer_arguments(config),
        weight_decay=config.weight_decay,
        decay_parameters=config.decay_parameters,
        clip_norm=config.clip_norm,
        learning_rate_factors=config.learning_rate_factors,
        weight_decays=config.weight_decays,
    )
    return with_learning_rate(make, schedule)


def open_data(config: ml_collections.ConfigDict, split: str) -> Source:
    """Returns the source of one split."""
    source = make_task(config).open_source(split)
    return CachedSource(source) if config.data.cache else source
