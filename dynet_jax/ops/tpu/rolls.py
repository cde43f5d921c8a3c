"""Rolls of channels and lanes: of every group, and of whole vectors."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dynet_jax.ops.strips import LANES
from dynet_jax.ops.tpu.grouped_plan import GroupedPlan


def roll_within_groups(x: jax.Array, shift: int, plan: GroupedPlan) -> jax.Array:
    """Returns R_shift(x), [..., *tile]: member o of every group gets what member (o + shift) mod members had."""
    axis, members = x.ndim - 2 + plan.channel_axis, plan.members
    if members == 1:
        return x
    shift %= members
    member = lax.broadcasted_iota(jnp.int32, x.shape, axis) % members
    return jnp.where(member + shift < members, _roll_channels(x, shift, plan), _roll_channels(x, shift - members, plan))


def _roll_channels(x: jax.Array, shift: int, plan: GroupedPlan) -> jax.Array:
    """Channel c gets channel c + shift; what wraps round the end is not used."""
    if plan.channel_axis == 1:
        return roll_lanes(x, shift)
    axis, size = x.ndim - 2, x.shape[-2]
    shift %= size
    parts = lax.slice_in_dim(x, shift, size, axis=axis), lax.slice_in_dim(x, 0, shift, axis=axis)
    return lax.concatenate(parts, dimension=axis)


def roll_lanes(x, shift: int):
    """Lane l gets lane l + shift; what wraps round the end is not used. Whole vectors: 96 lanes of 128 would be two."""
    axis, size = x.ndim - 1, x.shape[-1]
    whole = -(-size // LANES) * LANES
    x = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], whole - size), x.dtype)], axis) if whole > size else x
    return pltpu.roll(x, -shift % whole, axis)[..., :size]


def roll_block(block, shift: int, plan: GroupedPlan):
    """Rolls a block within groups, in place and row by row: all of it does not fit in the registers."""

    @pl.loop(0, block.shape[0])
    def _(row):
        block[row] = roll_within_groups(block[row], shift, plan)
