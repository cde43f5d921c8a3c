"""One training step, as `jit(shard_map(...))` over all devices.

Inside, the code is that of one device: it sees its part of the batch and communicates in three places: the mean of the
gradients, the mean of the BatchNorm statistics, and the sum of the metrics.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.stages import Wrapped

from dynet_jax.devices import AXES, BATCH, REPLICATED, Layout
from dynet_jax.evaluation.step import votes
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.layers.predictor import TEMPERATURE
from dynet_jax.ops.pixels import normalize
from dynet_jax.tasks.task import Task
from dynet_jax.train.image_mixing import UNMIXED, ImageMixing, network_noise
from dynet_jax.train.movement import KEY, by_stage, movement_metrics, movement_sums
from dynet_jax.train.state import TrainState


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    task: Task,
    *,
    mean,
    std,
    ema_decay: float | None = None,
    mixing: ImageMixing = UNMIXED,
) -> Wrapped:
    """Returns a jitted function (state, batch, rates) -> (new state, sums over the batch).

    The sums are 'loss', 'examples' and those that the task reports.
    A batch is {'image': [batch, height, width, 3] uint8, 'label': [batch, ...]}, sharded over the layout's devices.
    With 'noise' [batch] uint32, random numbers, images are mixed, and a network has keys for dropout and stochastic
    depth.
    The state's buffers are donated. A device processes its part of the batch in micro-batches of `layout.micro_batch`,
    one after another, and averages their gradients and statistics: the same function as for the whole batch at once.

    'gradient_norm', 'statistics_norm' and 'parameter_norm' (the latter two after the update) are multiplied by the
    batch size, like sums over it. They are finite if no entry has become infinite or NaN. For a dynamic network the
    same holds for the metrics of `movement_metrics`.

    With `ema_decay` d, state.ema follows the parameters and statistics: d ema + (1 - d) new, where d is at most
    (1 + step) / (10 + step), so that the first steps are soon forgotten.

    `rates` holds the scalars that a schedule determines (see `Run.rates`): 'learning_rate' replaces the optimiser's own
    schedule, and 'temperature' is that of annealed predictors. As operands, they keep the program the same for all
    schedules, so that a longer run or another learning rate does not compile again. Each may be left out. An optimiser
    that was not made by `with_learning_rate` keeps its own rate.
    """

    loss_and_gradients = _loss_and_gradients(model, task, mixing, mean, std)
    optimize = optax.with_extra_args_support(optimizer).update

    def on_device(state, batch, rates):
        rates = dict(rates)
        temperature = rates.pop("temperature", None)
        batch_stats = _at_temperature(state.batch_stats, temperature)
        # Without this, shard_map would sum the gradients of replicated parameters over the devices at every
        # micro-batch; with it the gradients stay local until the single mean below.
        of_state = lax.pcast((state.params, batch_stats, state.coefficients), AXES, to="varying")
        parts = [batch[key] for key in ("image", "label", "noise") if key in batch]
        parts = [value.reshape(-1, layout.micro_batch, *value.shape[1:]) for value in parts]
        count = len(parts[0])
        gradients, batch_stats, sums = _sum_over_micro_batches(loss_and_gradients, of_state, parts)
        gradients, batch_stats = jax.tree.map(lambda v: v / count, lax.pmean((gradients, batch_stats), AXES))
        updates, opt_state = optimize(gradients, state.opt_state, state.params, **rates)
        params = optax.apply_updates(state.params, updates)
        metrics = _sum_over_devices({**sums, "examples": jnp.float32(count * layout.micro_batch), **votes(batch)})
        examples = metrics["examples"]
        movement, coefficients = movement_metrics(metrics.pop(KEY), examples, state.coefficients)
        new_state = TrainState(state.step + 1, params, batch_stats, opt_state, coefficients=coefficients)
        if ema_decay is not None:
            new_state = new_state.replace(ema=_averages(state, new_state.variables, ema_decay, temperature))

        norms = {"gradient_norm": gradients, "statistics_norm": batch_stats, "parameter_norm": params}
        metrics |= {name: optax.global_norm(tree) * examples for name, tree in norms.items()}
        return new_state, metrics | {name: value * examples for name, value in movement.items()}

    sharded = jax.shard_map(on_device, mesh=layout.mesh, in_specs=(REPLICATED, BATCH, REPLICATED), out_specs=REPLICATED)

    def step(state, batch, rates=None):
        return sharded(state, batch, rates or {})

    return jax.jit(step, donate_argnums=0)


def _loss_and_gradients(model: nn.Module, task: Task, mixing: ImageMixing, mean, std) -> Callable:
    """Returns a function that computes (gradients, batch_stats, sums).

    Its arguments are (params, batch_stats, running means of coefficients, images, labels), and 'noise' if there is any.
    """

    def mean_loss(params, batch_stats, coefficients, images, labels, noise=None):
        variables = {"params": params, "batch_stats": batch_stats}
        images_, labels = mixing(normalize(images, mean, std), labels, noise)
        with sown_coefficients(), network_noise(noise):
            outputs, updates = model.apply(variables, images_, train=True, mutable=["batch_stats", COLLECTION])
        losses, sums = task.losses(outputs, labels)
        sown: Any = updates.get(COLLECTION, {})
        movement = movement_sums(by_stage(named_coefficients(sown), len(images)), coefficients)
        sums = {"loss": jnp.sum(losses), **sums, KEY: movement}
        return jnp.mean(losses), (updates["batch_stats"], sums)

    def loss_and_gradients(*operands):
        gradients, (batch_stats, sums) = jax.grad(mean_loss, has_aux=True)(*operands)
        return gradients, batch_stats, sums

    return loss_and_gradients


def _sum_over_micro_batches(function: Callable, of_state: tuple, parts: list[jax.Array]):
    """Returns the sums of a function's results over the micro-batches; parts: [micro-batches, micro_batch, ...]."""
    first = [value[0] for value in parts]
    if len(parts[0]) == 1:
        return function(*of_state, *first)

    def accumulate(total, micro_batch):
        return jax.tree.map(jnp.add, total, function(*of_state, *micro_batch)), None

    shapes = jax.eval_shape(function, *of_state, *first)
    zeros = jax.tree.map(lambda s: lax.pcast(jnp.zeros(s.shape, s.dtype), AXES, to="varying"), shapes)
    total, _ = lax.scan(accumulate, zeros, tuple(parts))
    return total


def _averages(state: TrainState, variables: dict, ema_decay: float, temperature: jax.Array | None) -> dict:
    """Returns the moving averages after a step that resulted in these variables."""
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema: Any = optax.incremental_update(variables, state.ema, 1 - decay)
    ema["batch_stats"] = _at_temperature(ema["batch_stats"], temperature)
    return ema


def _sum_over_devices(sums):
    """Sums over devices as one vector, which is a single collective for any number of sums."""
    vector, restore = ravel_pytree(sums)
    return restore(lax.psum(vector, AXES))


def _at_temperature(batch_stats, temperature: jax.Array | None):
    """Returns the statistics with a temperature in every annealed predictor."""
    if temperature is None:
        return batch_stats
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: temperature if path[-1].key == TEMPERATURE else leaf, batch_stats
    )
