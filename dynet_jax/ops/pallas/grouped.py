r"""The grouped convolution with one kernel per image, for TPUs: every byte is read and written once.

With m channels in and out of every group, $y_{p,c} = \sum_t \sum_{k<m} R_k(x)_{p+t,c} \, w_{t,k,c}$, where $R_k$ turns
the channels of every group by k places: multiply-adds over whole vectors of channels and images, instead of products of
m x m, which leave the matrix unit idle and a vector of 128 lanes nearly empty. Rows and columns are the major axes of
all blocks, so that a tap of the window is another address and not another alignment.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dynet_jax.ops.pallas.call import call, like
from dynet_jax.ops.pallas.plan import LANES, Plan, padded_bytes


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
    axis = x.ndim - 2 + plan.channel_axis
    size = x.shape[axis]
    if plan.channel_axis == 1:  # lanes: one turn of whole vectors, where a turn of 96 lanes in 128 would be two
        whole = -(-size // LANES) * LANES
        x = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], whole - size), x.dtype)], axis) if whole > size else x
        return pltpu.roll(x, -by % whole, axis)[..., :size]
    by %= size
    parts = lax.slice_in_dim(x, by, size, axis=axis), lax.slice_in_dim(x, 0, by, axis=axis)
    return lax.concatenate(parts, dimension=axis)


def _turn_rows(block, places: int, plan: Plan):
    """One row at a time: a whole block does not fit in the registers."""

    @pl.loop(0, block.shape[0])
    def _(row):
        block[row] = turn(block[row], places, plan)


def _with_neighbours(main, above, below):
    """[rows + 2, columns, *tile] float32: a block and the rows next to it, which are zero outside the image."""
    first, last = pl.program_id(1) == 0, pl.program_id(1) == pl.num_programs(1) - 1
    above = jnp.where(first, 0.0, above[...].astype(jnp.float32))
    below = jnp.where(last, 0.0, below[...].astype(jnp.float32))
    return jnp.concatenate([above, main[...].astype(jnp.float32), below])


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


def _forward_kernel(main, above, below, weights, y, turned, total, *, plan: Plan):
    turned[...] = _pad_columns(_with_neighbours(main, above, below), plan)
    total[...] = jnp.zeros_like(total)
    rows, columns = y.shape[:2]

    @pl.loop(0, plan.members)
    def _(k):
        @pl.loop(0, rows)
        def _(row):
            total[row] += sum(
                _seen(turned, row, tap, columns, plan) * weights[plan.members * tap[2] + k] for tap in plan.taps()
            )

        _turn_rows(turned, 1, plan)

    y[...] = total[...].astype(y.dtype)


def _backward_kernel(
    main, above, below, g, g_above, g_below, weights, dx, dweights, turned, gradient, spread, total, *, plan: Plan
):
    turned[...] = _pad_columns(_with_neighbours(main, above, below), plan)
    gradient[...] = _with_neighbours(g, g_above, g_below)
    total[...] = jnp.zeros_like(total)
    rows, columns = g.shape[:2]

    @pl.when(pl.program_id(1) == 0)
    def _():
        dweights[...] = jnp.zeros_like(dweights)

    @pl.loop(0, plan.members)
    def _(step):
        k = plan.members - 1 - step
        _turn_rows(turned, -1, plan)  # R_k of the block, as R_m is the identity
        spread[...] = jnp.zeros_like(spread)

        @pl.loop(0, rows + 2)  # the neighbours' rows reach into this block
        def _(row):
            for tap in plan.taps():
                place = _place(plan.stride * row, tap, columns, plan)
                spread[place] += gradient[row] * weights[plan.members * tap[2] + k]

        @pl.loop(0, rows)
        def _(row):
            for tap in plan.taps():
                product = _seen(turned, row, tap, columns, plan) * gradient[row + 1]
                dweights[plan.members * tap[2] + k] += jnp.sum(product, axis=0)

        @pl.loop(0, dx.shape[0])
        def _(row):
            own = spread[plan.stride + plan.padding[0] + row].reshape(-1, *dx.shape[2:])[1 : 1 + dx.shape[1]]
            total[row] = turn(total[row], -1, plan) + own  # in the end the sum of R_{-k} of them all

    dx[...] = total[...].astype(dx.dtype)


def _specs(shape, rows, plan: Plan):
    """Block specs of [all rows, columns, *tile]: the block, and the rows above and below it."""
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
        pl.BlockSpec((1, columns, *tile), at(lambda b: jnp.maximum(rows * b - 1, 0))),
        pl.BlockSpec((1, columns, *tile), at(lambda b: jnp.minimum(rows * (b + 1), all_rows - 1))),
    )


def _weights_spec(shape, plan: Plan):
    block = [shape[0], *shape[1:]]
    block[2 - plan.channel_axis] = plan.images
    return pl.BlockSpec(tuple(block), lambda n, b: (0, 0, n) if plan.channel_axis == 0 else (0, n, 0))


def _call(kernel, name, plan, grid, arrays, in_specs, outputs, out_specs, scratch_shapes, flops):
    # Blocks with their halo are read as often as they come; an output is written once.
    reads = sum(math.prod(grid) * padded_bytes(spec.block_shape, array.dtype) for spec, array in zip(in_specs, arrays))
    return call(
        functools.partial(kernel, plan=plan),
        name,
        arrays,
        outputs,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in scratch_shapes],
        flops=flops,
        bytes_accessed=reads + sum(padded_bytes(output.shape, output.dtype) for output in outputs),
        interpret=plan.interpret,
    )


def _sizes(x, plan: Plan):
    rows, columns = x.shape[0] // plan.stride, x.shape[1] // plan.stride
    tile = list(x.shape[2:])
    grid = (tile[1 - plan.channel_axis] // plan.images, rows // plan.rows)
    tile[1 - plan.channel_axis] = plan.images
    padded = (plan.stride * plan.rows + 2, (x.shape[1] + 2) // plan.stride, plan.stride, *tile)
    return rows, columns, tuple(tile), grid, padded


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, weights: jax.Array, plan: Plan) -> jax.Array:
    """[rows, columns, *tile] and [taps x members, *tile] -> [rows / stride, columns / stride, *tile], in x's dtype."""
    rows, columns, tile, grid, padded = _sizes(x, plan)
    y = like(x, (rows, columns, *x.shape[2:]))
    in_specs = [*_specs(x.shape, plan.stride * plan.rows, plan), _weights_spec(weights.shape, plan)]
    out_specs = [_specs(y.shape, plan.rows, plan)[0]]
    scratch = [padded, (plan.rows, columns, *tile)]
    arrays = (x, x, x, weights)
    flops = 2 * weights.shape[0] * math.prod(y.shape)
    return _call(_forward_kernel, "grouped_conv", plan, grid, arrays, in_specs, [y], out_specs, scratch, flops)[0]


def _forward(x, weights, plan):
    return convolve(x, weights, plan), (x, weights)


def _backward(plan, saved, gradient):
    x, weights = saved
    _, columns, tile, grid, padded = _sizes(x, plan)
    in_specs = [
        *_specs(x.shape, plan.stride * plan.rows, plan),
        *_specs(gradient.shape, plan.rows, plan),
        _weights_spec(weights.shape, plan),
    ]
    out_specs = [_specs(x.shape, plan.stride * plan.rows, plan)[0], _weights_spec(weights.shape, plan)]
    outputs = [like(x, x.shape), like(x, weights.shape, jnp.float32)]
    scratch = [
        padded,
        (plan.rows + 2, columns, *tile),
        (plan.stride * (plan.rows + 2) + 2, *padded[1:]),
        (plan.stride * plan.rows, x.shape[1], *tile),
    ]
    arrays = (x, x, x, gradient, gradient, gradient, weights)
    name = "grouped_conv_gradients"
    flops = 4 * weights.shape[0] * gradient.size
    dx, dweights = _call(_backward_kernel, name, plan, grid, arrays, in_specs, outputs, out_specs, scratch, flops)
    return dx, dweights.astype(weights.dtype)


convolve.defvjp(_forward, _backward)
