"""One training step and one evaluation step, as `jit(shard_map(...))` over all devices.

Inside, the code is that of one device: it sees its part of the batch and talks to the others in three places, the mean
of the gradients, the mean of the BatchNorm statistics, and the sum of the metrics.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dynet_jax.ops.pixels import normalize
from dynet_jax.train.distributed import AXES, BATCH, REPLICATED, Layout
from dynet_jax.train.state import TrainState
from dynet_jax.train.task import Batch, Task

Metrics = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    task: Task,
    *,
    mean,
    std,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """(state, batch) -> (new state, sums of 'loss', 'examples' and what the task reports over the batch).

    A batch is {'image': [batch, height, width, 3] uint8, 'label': [batch, ...]}, split over the devices of the layout.
    The state's buffers are donated. A device's part of the batch is worked on in micro-batches of
    `layout.micro_batch`, one after another, and their gradients and statistics averaged: the same function as the whole
    batch at once.

    'gradient_norm', 'statistics_norm' and 'parameter_norm' (both after the update) come times the batch size, like sums
    over it. They are finite if no entry has become infinite or NaN.

    With `ema_decay` d, state.ema follows the parameters and statistics: d ema + (1 - d) new, where d is at most
    (1 + step) / (10 + step), so that the first steps are soon forgotten.
    """

    def loss_and_gradients(params, batch_stats, images, labels):
        def mean_loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            images_ = normalize(images, mean, std)
            outputs, updates = model.apply(variables, images_, train=True, mutable=["batch_stats"])
            losses, sums = task.losses(outputs, labels)
            return jnp.mean(losses), (updates["batch_stats"], {"loss": jnp.sum(losses), **sums})

        gradients, (batch_stats, sums) = jax.grad(mean_loss, has_aux=True)(params)
        return gradients, batch_stats, sums

    def step(state, batch):
        # Without this, shard_map sums the gradient of replicated parameters over the devices by itself, once for every
        # micro-batch; with it the gradients stay local until the one mean below.
        params, batch_stats = lax.pcast((state.params, state.batch_stats), AXES, to="varying")
        images, labels = (
            value.reshape(-1, layout.micro_batch, *value.shape[1:]) for value in (batch["image"], batch["label"])
        )
        count = images.shape[0]
        if count == 1:
            results = loss_and_gradients(params, batch_stats, images[0], labels[0])
        else:

            def accumulate(total, micro_batch):
                return jax.tree.map(jnp.add, total, loss_and_gradients(params, batch_stats, *micro_batch)), None

            shapes = jax.eval_shape(loss_and_gradients, params, batch_stats, images[0], labels[0])
            zeros = jax.tree.map(lambda s: lax.pcast(jnp.zeros(s.shape, s.dtype), AXES, to="varying"), shapes)
            results, _ = lax.scan(accumulate, zeros, (images, labels))
        gradients, batch_stats, sums = results
        gradients, batch_stats = jax.tree.map(lambda v: v / count, lax.pmean((gradients, batch_stats), AXES))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(state.step + 1, params, batch_stats, opt_state)
        if ema_decay is not None:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            new_state = new_state.replace(ema=optax.incremental_update(new_state.variables, state.ema, 1 - decay))

        sums |= {"examples": jnp.float32(count * layout.micro_batch), **_votes(batch)}
        metrics = lax.psum(sums, AXES)
        metrics["gradient_norm"] = optax.global_norm(gradients) * metrics["examples"]
        metrics["statistics_norm"] = optax.global_norm(batch_stats) * metrics["examples"]
        metrics["parameter_norm"] = optax.global_norm(params) * metrics["examples"]
        return new_state, metrics

    sharded = jax.shard_map(step, mesh=layout.mesh, in_specs=(REPLICATED, BATCH), out_specs=REPLICATED)
    return jax.jit(sharded, donate_argnums=0)


def make_eval_step(model: nn.Module, layout: Layout, task: Task, *, mean, std) -> Callable[[dict, Batch], Metrics]:
    """(variables, batch) -> sums of 'examples' and what the task measures, over the real examples.

    A batch is that of a training step and 'mask' [batch], 1 for real examples and 0 for padding. In both steps a batch
    may hold 'stop' [devices] int32, whose sum is returned too (see `StopVote`).
    """

    def step(variables, batch):
        sums = task.evaluate(
            lambda images: model.apply(variables, images, train=False), normalize(batch["image"], mean, std), batch
        )
        return lax.psum({**sums, "examples": jnp.sum(batch["mask"]), **_votes(batch)}, AXES)

    return jax.jit(jax.shard_map(step, mesh=layout.mesh, in_specs=(REPLICATED, BATCH), out_specs=REPLICATED))


def _votes(batch: Batch) -> Metrics:
    return {"stop": jnp.sum(batch["stop"])} if "stop" in batch else {}


def make_predict_step(model: nn.Module, *, mean, std) -> Callable[[dict, jax.Array], jax.Array]:
    """(variables, uint8 images) -> probabilities [batch, classes], on one device."""
    return jax.jit(
        lambda variables, images: nn.softmax(model.apply(variables, normalize(images, mean, std), train=False))
    )
