r"""The grouped convolution with one kernel per image, for TPUs: every byte is read and written once.

With m channels in and out of every group, $y_{p,c} = \sum_t \sum_{k<m} R_k(x)_{p+t,c} \, w_{t,k,c}$, where $R_k$ turns
the channels of every group by k places: multiply-adds over whole vectors of channels and images, instead of products of
m x m, which leave the matrix unit idle and a vector of 128 lanes nearly empty. Rows and columns are the major axes of
all blocks, so that a tap of the window is another address and not another alignment.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dynet_jax.ops.pallas.call import call, like
from dynet_jax.ops.pallas.normalizing import clear_with_first_rows, gradient_like, read, summed, unread
from dynet_jax.ops.pallas.plan import Plan, hbm_bytes
from dynet_jax.ops.strips import LANES


def turn(x: jax.Array, places: int, plan: Plan) -> jax.Array:
    """R_k: member o of every group gets what member (o + places) mod members had. x is [..., *tile]."""
    axis, members = x.ndim - 2 + plan.channel_axis, plan.members
    if members == 1:
        return x
    places %= members
    member = lax.broadcasted_iota(jnp.int32, x.shape, axis) % members
    return jnp.where(member + places < members, _ahead(x, places, plan), _ahead(x, places - members, plan))


def _ahead(x: jax.Array, by: int, plan: Plan) -> jax.Array:
    """Channel c gets channel c + by; what comes round the end is not used."""
    if plan.channel_axis == 1:
        return _roll_lanes(x, by)
    axis, size = x.ndim - 2, x.shape[-2]
    by %= size
    parts = lax.slice_in_dim(x, by, size, axis=axis), lax.slice_in_dim(x, 0, by, axis=axis)
    return lax.concatenate(parts, dimension=axis)


def _turn_rows(block, places: int, plan: Plan):
    """One row at a time: a whole block does not fit in the registers."""

    @pl.loop(0, block.shape[0])
    def _(row):
        block[row] = turn(block[row], places, plan)


def _with_neighbours(main, above, below, plan: Plan):
    """[rows + 2, columns, *tile]: a block and the rows next to it, which are zero outside the image."""
    first, last = pl.program_id(1) == 0, pl.program_id(1) == pl.num_programs(1) - 1
    above = jnp.where(first, _of_strip(above, -1, plan), above)
    return jnp.concatenate([above, main, jnp.where(last, _of_strip(below, 1, plan), below)])


def _of_strip(row, places, plan: Plan):
    """For every strip the row of the one so many places further down, zero where there is none."""
    if plan.strips == 1:
        return jnp.zeros_like(row)
    axis, lanes = row.ndim - 1, row.shape[-1]
    by = places * (lanes // plan.strips)
    source = lax.broadcasted_iota(jnp.int32, row.shape, axis) + by
    return jnp.where((source >= 0) & (source < lanes), _roll_lanes(row, by), 0.0)


def _roll_lanes(x, by: int):
    """Lane l gets lane l + by; what comes round the end is not used. Whole vectors: 96 lanes of 128 would be two."""
    axis, size = x.ndim - 1, x.shape[-1]
    whole = -(-size // LANES) * LANES
    x = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], whole - size), x.dtype)], axis) if whole > size else x
    return pltpu.roll(x, -by % whole, axis)[..., :size]


def _pad_columns(x, plan: Plan):
    """[rows, columns, *tile] -> [rows, (columns + 2) / stride, stride, *tile]: every stride-th column is one slice."""
    zero = jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype)
    x = jnp.concatenate([zero, x, zero], axis=1)
    return x.reshape(x.shape[0], -1, plan.stride, *x.shape[2:])


def _place(row, tap, columns, plan: Plan):
    """Where a row and column of the window lie in padded columns, for all output columns of an output row."""
    i, j, _ = tap
    first = 1 - plan.padding[1] + j
    return row + i, pl.ds(first // plan.stride, columns), first % plan.stride


def _seen(turned, row, tap, columns, plan: Plan):
    """What output row `row` sees at a position of the window, [columns, *tile], of a padded and turned block."""
    return turned[_place(plan.stride * row + 1 - plan.padding[0], tap, columns, plan)]


def _read_block(rows, affine, activation, plan: Plan):
    """Rows of x (the block's, those above, those below), normalised and padded."""
    return _pad_columns(_with_neighbours(*(read(part[...], affine, activation) for part in rows), plan), plan)


def _forward_kernel(main, above, below, weights, affine, y, sums, turned, total, *, plan: Plan, activation):
    turned[...] = _read_block((main, above, below), affine, activation, plan)
    total[...] = jnp.zeros_like(total)
    rows, columns = y.shape[:2]
    clear_with_first_rows(sums)

    @pl.loop(0, plan.members)
    def _(k):
        @pl.loop(0, rows)
        def _(row):
            total[row] += sum(
                _seen(turned, row, tap, columns, plan) * weights[plan.members * tap[2] + k] for tap in plan.taps()
            )

        _turn_rows(turned, 1, plan)

    @pl.loop(0, rows)
    def _(row):
        y[row] = total[row].astype(y.dtype)
        if sums is not None:
            value = y[row].astype(jnp.float32)  # as whoever reads it will see it
            sums[0] += jnp.sum(value, axis=0)
            sums[1] += jnp.sum(value * value, axis=0)


def _backward_kernel(*refs, plan: Plan, activation):
    x, g, y, (weights, affine, dsums, dx, dweights, daffine) = refs[:3], refs[3:6], refs[6:9], refs[9:15]
    turned, gradient, total = refs[15:]
    turned[...] = _read_block(x, affine, activation, plan)
    y = [part if part is None else part[...] for part in y]
    block = _with_neighbours(*(summed(part[...], at, dsums) for part, at in zip(g, y)), plan)
    zero = jnp.zeros((block.shape[0], 1, *block.shape[2:]), block.dtype)
    gradient[...] = jnp.concatenate([zero, block, zero], axis=1)
    total[...] = jnp.zeros_like(total)
    rows, columns = g[0].shape[:2]
    clear_with_first_rows(dweights, daffine)

    @pl.loop(0, plan.members)
    def _(step):
        k = plan.members - 1 - step
        _turn_rows(turned, -1, plan)  # R_k of the block, as R_m is the identity

        @pl.loop(0, rows)
        def _(row):
            own = gradient[row + 1, pl.ds(1, columns)]
            for tap in plan.taps():
                product = _seen(turned, row, tap, columns, plan) * own
                dweights[plan.members * tap[2] + k] += jnp.sum(product, axis=0)

        @pl.loop(0, rows)
        def _(row):
            for a, b in itertools.product(range(plan.stride), repeat=2):
                given = sum(
                    gradient[row + 1 + down, pl.ds(1 + right, columns)] * weights[plan.members * tap + k]
                    for down, right, tap in plan.taps_onto(a, b)
                )
                place = plan.stride * row + a, slice(None), b
                total[place] = turn(total[place], -1, plan) + given  # in the end the sum of R_{-k} of them all

    @pl.loop(0, dx.shape[0])
    def _(row):
        given = total[row].reshape(dx.shape[1:])
        if affine is not None:
            given, multiplier, offset = unread(given, x[0][row], affine, activation)
            daffine[0] += jnp.sum(multiplier, axis=0)
            daffine[1] += jnp.sum(offset, axis=0)
        dx[row] = given.astype(dx.dtype)


def _specs(shape, rows, plan: Plan):
    """Block specs of [all rows, columns, *tile]: the block, and the rows above and below it.

    Above the first row lies the last, which is the strip above's.
    """
    all_rows, columns, *tile = shape
    image_axis = 1 - plan.channel_axis
    tile[image_axis] = plan.images

    def at(row):
        def index(n, b):
            position = [row(b), 0, 0, 0]
            position[2 + image_axis] = n
            return tuple(position)

        return index

    return (
        pl.BlockSpec((rows, columns, *tile), at(lambda b: b)),
        pl.BlockSpec((1, columns, *tile), at(lambda b: lax.rem(rows * b + all_rows - 1, all_rows))),
        pl.BlockSpec((1, columns, *tile), at(lambda b: lax.rem(rows * (b + 1), all_rows))),
    )


def _spec_of_all_rows(shape, plan: Plan):
    """Of what has no rows: [any, *tile]."""
    block = list(shape)
    block[2 - plan.channel_axis] = plan.images
    return pl.BlockSpec(tuple(block), lambda n, b: (0, 0, n) if plan.channel_axis == 0 else (0, n, 0))


def _call(kernel, name, maps, others, outputs, scratch_shapes, flops, plan: Plan, activation):
    """Run a kernel on maps [rows, columns, *tile], x the first of them, and on what has no rows, [any, *tile].

    The kernel gets three of every map, a block and the rows above and below it, then the others.
    """
    x = maps[0]
    grid = (x.shape[3 - plan.channel_axis] // plan.images, x.shape[0] // (plan.stride * plan.rows))

    def specs(array):
        if array is None:
            return [None] * 3
        if array.ndim == 3:
            return [_spec_of_all_rows(array.shape, plan)]
        return _specs(array.shape, array.shape[0] // grid[1], plan)

    with_neighbours = [spec for array in maps for spec in specs(array)]
    # What has no rows is read once; an output is written once.
    once = sum(hbm_bytes(array.shape, array.dtype) for array in (*others, *outputs) if array is not None)
    every_step = sum(hbm_bytes(spec.block_shape, x.dtype) for spec in with_neighbours if spec is not None)
    return call(
        functools.partial(kernel, plan=plan),
        name,
        [array for array in maps for _ in range(3)] + list(others),
        outputs,
        grid=grid,
        in_specs=with_neighbours + [specs(array)[0] for array in others],
        out_specs=[specs(output)[0] for output in outputs],
        scratch_shapes=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in scratch_shapes],
        activation=activation,
        flops=flops,
        bytes_accessed=math.prod(grid) * every_step + once,
        interpret=plan.interpret,
    )


def _block_sizes(x, plan: Plan):
    """Of the output's columns, a tile, and a padded block of x."""
    tile = list(x.shape[2:])
    tile[1 - plan.channel_axis] = plan.images
    padded = (plan.stride * plan.rows + 2, (x.shape[1] + 2) // plan.stride, plan.stride, *tile)
    return x.shape[1] // plan.stride, tuple(tile), padded


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def convolve(
    x: jax.Array, weights: jax.Array, affine: jax.Array | None, activation: str | None, with_sums: bool, plan: Plan
) -> tuple[jax.Array, jax.Array | None]:
    """The convolution of activation(x * multiplier + offset), in x's dtype, and the sums of it and of its squares.

    x: [rows, columns, *tile]; weights: [taps x members, *tile]; affine: multiplier and offset, [2, *tile], or None.
    Returns [rows / stride, columns / stride, *tile], and [2, *tile] or, not `with_sums`, None.
    """
    columns, tile, padded = _block_sizes(x, plan)
    y = like(x, (x.shape[0] // plan.stride, columns, *x.shape[2:]))
    sums = like(x, (2, *x.shape[2:]), jnp.float32) if with_sums else None
    scratch = [padded, (plan.rows, columns, *tile)]
    flops = 2 * weights.shape[0] * math.prod(y.shape)
    outputs, others = [y, sums], (weights, affine)
    y, sums = _call(_forward_kernel, "grouped_conv", (x,), others, outputs, scratch, flops, plan, activation)
    return y, sums


def _forward(x, weights, affine, activation, with_sums, plan):
    y, sums = convolve(x, weights, affine, activation, with_sums, plan)
    return (y, sums), (x, weights, affine, y if with_sums else None)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (gradient, dsums) = saved, gradients
    columns, tile, padded = _block_sizes(x, plan)
    scratch = [
        padded,
        (plan.rows + 2, columns + 2, *tile),
        (plan.stride * plan.rows, columns, plan.stride, *tile),
    ]
    maps, others = (x, gradient, y), (weights, affine, dsums)
    outputs = [like(x, x.shape), like(x, weights.shape, jnp.float32), gradient_like(x, affine)]
    flops = 4 * weights.shape[0] * gradient.size
    name = "grouped_conv_gradients"
    dx, dweights, daffine = _call(_backward_kernel, name, maps, others, outputs, scratch, flops, plan, activation)
    return dx, dweights.astype(weights.dtype), daffine


convolve.defvjp(_forward, _backward)
