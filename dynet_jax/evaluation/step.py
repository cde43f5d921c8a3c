"""One evaluation step, as `jit(shard_map(...))` over all devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.stages import Wrapped

from dynet_jax.devices import AXES, BATCH, REPLICATED, Layout
from dynet_jax.ops.pixels import normalize
from dynet_jax.tasks.task import Batch, Sums, Task


def make_eval_step(model: nn.Module, layout: Layout, task: Task, *, mean, std) -> Wrapped:
    """Returns a jitted function (variables, batch) -> sums of 'examples' and the task's measures over actual examples.

    A batch is {'image': [batch, height, width, 3] uint8, 'label': [batch, ...]}, sharded over the layout's devices, and
    'mask' [batch], 1 for actual examples and 0 for padding. It may contain 'stop' [devices] int32, whose sum is
    returned too (see `dynet_jax.train.interruption.StopVote`).
    """

    def step(variables, batch):
        sums = task.evaluate(
            lambda images: model.apply(variables, images, train=False), normalize(batch["image"], mean, std), batch
        )
        return lax.psum({**sums, "examples": jnp.sum(batch["mask"]), **votes(batch)}, AXES)

    return jax.jit(jax.shard_map(step, mesh=layout.mesh, in_specs=(REPLICATED, BATCH), out_specs=REPLICATED))


def votes(batch: Batch) -> Sums:
    """Returns the votes that travel with a batch, to be summed over the devices."""
    return {"stop": jnp.sum(batch["stop"])} if "stop" in batch else {}
