r"""The grouped convolution with one kernel per image, for TPUs: every byte is read and written once.

With m channels in and out of every group, $y_{p,c} = \sum_t \sum_{k<m} R_k(x)_{p+t,c} \, w_{t,k,c}$, where $R_k$ rolls
the channels within every group by k: multiply-adds over whole vectors of channels and images, instead of products of
m x m, which leave the matrix unit idle and a vector of 128 lanes nearly empty. Rows and columns are the major axes of
all blocks, so that a tap of the window is another address and not another alignment.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.normalizing import (
    add_gradient_of_sums,
    gradient_like,
    normalize_block,
    normalize_block_gradients,
)
from dynet_jax.ops.pallas import forward_rule, like
from dynet_jax.ops.tpu.call import call, zero_at_first_rows
from dynet_jax.ops.tpu.grouped_plan import GroupedPlan
from dynet_jax.ops.tpu.rolls import roll_block, roll_lanes, roll_within_groups
from dynet_jax.ops.tpu.tiles import hbm_bytes


class WithHalo(NamedTuple):
    """A block of rows of a map, the row above it and the row below."""

    block: Any
    above: Any
    below: Any


def _join_halo(rows: WithHalo, plan: GroupedPlan):
    """Returns [rows + 2, columns, *tile]: a block and its halo, which is zero outside the image."""
    first, last = pl.program_id(1) == 0, pl.program_id(1) == pl.num_programs(1) - 1
    above = jnp.where(first, _row_of_strip(rows.above, -1, plan), rows.above)
    return jnp.concatenate([above, rows.block, jnp.where(last, _row_of_strip(rows.below, 1, plan), rows.below)])


def _row_of_strip(row, offset, plan: GroupedPlan):
    """Returns for every strip the row of the strip so many further down the image, zero where there is none."""
    if plan.strips == 1:
        return jnp.zeros_like(row)
    axis, lanes = row.ndim - 1, row.shape[-1]
    shift = offset * (lanes // plan.strips)
    source = lax.broadcasted_iota(jnp.int32, row.shape, axis) + shift
    return jnp.where((source >= 0) & (source < lanes), roll_lanes(row, shift), 0.0)


def _padded_block(x: WithHalo, affine, activation, plan: GroupedPlan):
    """Returns a block of x with its halo, normalised and padded: [rows, (columns + 2) / stride, stride, *tile].

    A slice then holds every stride-th column.
    """
    parts = (normalize_block(rows[...], affine, activation) for rows in x)
    block = _join_halo(WithHalo(*parts), plan)
    return _pad_columns(block).reshape(block.shape[0], -1, plan.stride, *block.shape[2:])


def _pad_columns(block):
    zero = jnp.zeros((block.shape[0], 1, *block.shape[2:]), block.dtype)
    return jnp.concatenate([zero, block, zero], axis=1)


def _view(rolled, row, tap, columns, plan: GroupedPlan):
    """Returns what output row `row` sees at a tap of the window, [columns, *tile], of a padded and rolled block."""
    i, j, _ = tap
    first = 1 - plan.padding[1] + j
    row = plan.stride * row + 1 - plan.padding[0] + i
    return rolled[row, pl.ds(first // plan.stride, columns), first % plan.stride]


def _forward_kernel(x, weights, affine, y, sums, scratch, *, plan: GroupedPlan, activation):
    rolled, total = scratch.x, scratch.y
    rolled[...] = _padded_block(x, affine, activation, plan)
    total[...] = jnp.zeros_like(total)
    rows, columns = y.shape[:2]
    zero_at_first_rows(sums)

    @pl.loop(0, plan.members)
    def _(k):
        @pl.loop(0, rows)
        def _(row):
            total[row] += sum(
                _view(rolled, row, tap, columns, plan) * weights[plan.members * tap[2] + k] for tap in plan.taps()
            )

        roll_block(rolled, 1, plan)

    @pl.loop(0, rows)
    def _(row):
        y[row] = total[row].astype(y.dtype)
        if sums is not None:
            value = y[row].astype(jnp.float32)  # rounded to y's dtype, as it will be read
            sums[0] += jnp.sum(value, axis=0)
            sums[1] += jnp.sum(value * value, axis=0)


def _backward_kernel(
    x, dy, y, weights, affine, dsums, dx, dweights, daffine, scratch, *, plan: GroupedPlan, activation
):
    scratch.x[...] = _padded_block(x, affine, activation, plan)
    scratch.dy[...] = _padded_gradient(dy, y, dsums, plan)
    scratch.dx[...] = jnp.zeros_like(scratch.dx)
    zero_at_first_rows(dweights, daffine)

    @pl.loop(0, plan.members)
    def _(step):
        k = plan.members - 1 - step
        roll_block(scratch.x, -1, plan)  # R_k of the block, as R_m is the identity
        _add_weight_gradients(scratch, k, dweights, dy.block.shape, plan)
        _add_input_gradients(scratch, k, weights, dy.block.shape, plan)

    @pl.loop(0, dx.shape[0])
    def _(row):
        gradient = scratch.dx[row].reshape(dx.shape[1:])
        if affine is not None:
            gradient, multiplier, offset = normalize_block_gradients(gradient, x.block[row], affine, activation)
            daffine[0] += jnp.sum(multiplier, axis=0)
            daffine[1] += jnp.sum(offset, axis=0)
        dx[row] = gradient.astype(dx.dtype)


def _padded_gradient(dy: WithHalo, y: WithHalo | None, dsums, plan: GroupedPlan):
    """Returns the gradient of y with its halo, in float32 and with a column of zeros on both sides."""
    values = [None] * 3 if y is None else [rows[...] for rows in y]
    parts = (add_gradient_of_sums(rows[...], part, dsums) for rows, part in zip(dy, values))
    return _pad_columns(_join_halo(WithHalo(*parts), plan))


def _add_weight_gradients(scratch, k, dweights, block_shape, plan: GroupedPlan):
    rows, columns = block_shape[:2]

    @pl.loop(0, rows)
    def _(row):
        gradient = scratch.dy[row + 1, pl.ds(1, columns)]
        for tap in plan.taps():
            product = _view(scratch.x, row, tap, columns, plan) * gradient
            dweights[plan.members * tap[2] + k] += jnp.sum(product, axis=0)


def _add_input_gradients(scratch, k, weights, block_shape, plan: GroupedPlan):
    """Adds the gradient through R_k, for k from the last to the first: rolled back once for each that follows."""
    rows, columns = block_shape[:2]

    @pl.loop(0, rows)
    def _(row):
        for a, b in itertools.product(range(plan.stride), repeat=2):
            gradient = sum(
                scratch.dy[row + 1 + down, pl.ds(1 + right, columns)] * weights[plan.members * tap + k]
                for down, right, tap in plan.taps_onto(a, b)
            )
            at = plan.stride * row + a, slice(None), b
            scratch.dx[at] = roll_within_groups(scratch.dx[at], -1, plan) + gradient


def _map_specs(shape, rows, plan: GroupedPlan) -> WithHalo:
    """Returns the block specs of a map, [all rows, columns, *tile].

    Above the first row lies the last, which is that of the strip above.
    """
    all_rows, columns, *tile = shape
    tile = plan.tile_of_block(tile)

    def at(row):
        return lambda n, b: (row(b), 0, 0, n) if plan.channel_axis == 0 else (row(b), 0, n, 0)

    return WithHalo(
        pl.BlockSpec((rows, columns, *tile), at(lambda b: b)),
        pl.BlockSpec((1, columns, *tile), at(lambda b: lax.rem(rows * b + all_rows - 1, all_rows))),
        pl.BlockSpec((1, columns, *tile), at(lambda b: lax.rem(rows * (b + 1), all_rows))),
    )


def _spec(array, steps, plan: GroupedPlan):
    """Returns the block spec of a map without its halo, or of an array without rows, [any, *tile]."""
    if array.ndim == 4:
        return _map_specs(array.shape, array.shape[0] // steps, plan).block
    block = (array.shape[0], *plan.tile_of_block(array.shape[1:]))
    return pl.BlockSpec(block, lambda n, b: (0, 0, n) if plan.channel_axis == 0 else (0, n, 0))


def _call(kernel, name, maps, others, outputs, scratch, flops, plan: GroupedPlan, activation):
    """Runs a kernel on maps [rows, columns, *tile], x the first of them, and on arrays without rows, [any, *tile].

    The kernel gets every map as a `WithHalo`, then the others.
    """
    x = maps[0]
    grid = (x.shape[3 - plan.channel_axis] // plan.images, x.shape[0] // (plan.stride * plan.rows))
    spec = functools.partial(_spec, steps=grid[1], plan=plan)
    map_specs = jax.tree.map(lambda array: _map_specs(array.shape, array.shape[0] // grid[1], plan), maps)
    # An array without rows is read once; an output is written once.
    once = sum(hbm_bytes(array.shape, array.dtype) for array in jax.tree.leaves((others, outputs)))
    every_step = sum(hbm_bytes(spec.block_shape, x.dtype) for spec in jax.tree.leaves(map_specs))
    return call(
        functools.partial(kernel, plan=plan),
        name,
        (*jax.tree.map(lambda array: WithHalo(array, array, array), maps), *others),
        outputs,
        scratch,
        grid=grid,
        in_specs=(*map_specs, *jax.tree.map(spec, others)),
        out_specs=jax.tree.map(spec, outputs),
        activation=activation,
        flops=flops,
        bytes_accessed=math.prod(grid) * every_step + once,
        interpret=plan.interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def convolve(
    x: jax.Array,
    weights: jax.Array,
    affine: jax.Array | None,
    activation: str | None,
    with_sums: bool,
    plan: GroupedPlan,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the convolution of activation(x * multiplier + offset), in x's dtype, and its sums and those of squares.

    x: [rows, columns, *tile]; weights: [taps x members, *tile]; affine: multiplier and offset, [2, *tile], or None.
    The results are [rows / stride, columns / stride, *tile], and [2, *tile] or, not `with_sums`, None.
    """
    y = like(x, (x.shape[0] // plan.stride, x.shape[1] // plan.stride, *x.shape[2:]))
    sums = like(x, (2, *x.shape[2:]), jnp.float32) if with_sums else None
    scratch, flops = plan.scratch(x, weights), 2 * weights.shape[0] * math.prod(y.shape)
    others, outputs = (weights, affine), (y, sums)
    return _call(_forward_kernel, "grouped_conv", (x,), others, outputs, scratch, flops, plan, activation)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (dy, dsums) = saved, gradients
    maps, others = (x, dy, y), (weights, affine, dsums)
    outputs = (like(x, x.shape), like(x, weights.shape, jnp.float32), gradient_like(x, affine))
    scratch, flops = plan.gradient_scratch(x, weights), 4 * weights.shape[0] * dy.size
    name = "grouped_conv_gradients"
    dx, dweights, daffine = _call(_backward_kernel, name, maps, others, outputs, scratch, flops, plan, activation)
    return dx, dweights.astype(weights.dtype), daffine


convolve.defvjp(forward_rule(convolve), _backward)
