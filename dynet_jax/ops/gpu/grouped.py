r"""The grouped convolution with one kernel per image, for GPUs, by their matrix units.

A matrix unit multiplies 16 channels at least, and a group has 6. So whole groups, up to 32 channels, are one product
for every position of the window: $y_p = \sum_t x_{p+t} W_t$ with a $W_t$ that is zero between groups and made of the
image's kernel in registers. Most of the arithmetic is with zeros; a card that has 300 operations for every byte has
time for it. Both results of the backward pass are of the same tiles, those of y that see a tile of x at each tap:
$dx_p = \sum_t dy_{p-t} W_t^T$ and $dW_t = \sum_p x_p^T dy_{p-t}$.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.gpu.call import added, call, dot, lanes, load, store, sums_of_blocks
from dynet_jax.ops.gpu.geometry import POSITIONS
from dynet_jax.ops.gpu.plans import TAPS_AT_ONCE, WIDTH, GroupedPlan, blocks_of
from dynet_jax.ops.gpu.tiles import Channels, Tile
from dynet_jax.ops.pallas import forward_rule, like


def _channels(limit: int, plan: GroupedPlan) -> Channels:
    """Returns those of the image and the tile that this block of threads has."""
    first = pl.program_id(1) * plan.channels
    numbers, inside = lanes(first, WIDTH, limit)
    return Channels(pl.program_id(0), numbers, inside & (numbers < first + plan.channels))


def _matrix_indices(tap: int, channels: Channels, plan: GroupedPlan, *, transposed: bool = False):
    """Returns where the weights of a tap are for each pair of channels, [in, out], and which pairs are of one group."""
    inputs, outputs = channels.numbers[:, None], channels.numbers[None, :]
    inside = channels.inside[:, None] & channels.inside[None, :]
    if transposed:
        inputs, outputs = outputs, inputs
    same = lax.div(inputs, jnp.int32(plan.members)) == lax.div(outputs, jnp.int32(plan.members))
    # Pairs of two groups have no weight: out of bounds, they do not meet those that have.
    member = jnp.where(same & inside, lax.rem(inputs, jnp.int32(plan.members)), plan.members)
    return (channels.image, tap, member, outputs + jnp.zeros_like(inputs)), same & inside


def _matrix(weights, tap: int, channels: Channels, plan: GroupedPlan, *, transposed: bool = False) -> jax.Array:
    """Returns the weights of a tap as a matrix, [in, out]; [out, in] if transposed."""
    indices, mask = _matrix_indices(tap, channels, plan, transposed=transposed)
    return load(weights, *indices, mask=mask)


def _forward_kernel(x, weights, affine, y, sums, *, plan: GroupedPlan, activation):
    channels, block = _channels(x.shape[-1], plan), pl.program_id(2)
    geometry, places = plan.geometry, plan.geometry.output_places(block)
    affine, total = channels.rows(affine), jnp.zeros((POSITIONS, WIDTH), jnp.float32)
    for tap in range(geometry.taps):
        seen = Tile(channels, *geometry.seen(places, tap))
        total += dot(seen.read(x, affine, activation), _matrix(weights, tap, channels, plan))
    Tile(channels, *places.of(geometry.output_size)).write(y, sums, block, total)


def _backward_kernel(x, dy, y, weights, affine, dsums, dx, dweights, daffine, *, plan: GroupedPlan, activation):
    """Works on every `blocks`-th tile of positions: first for x, and then, from the cache, for the weights.

    All at once would take more registers than there are.
    """
    channels, block, blocks = _channels(x.shape[-1], plan), pl.program_id(2), pl.num_programs(2)
    affine, dsums = channels.rows(affine), channels.rows(dsums)
    geometry = plan.geometry
    steps = pl.cdiv(blocks_of(math.prod(geometry.size), POSITIONS), blocks)

    def tiles_of(step):
        """Returns the number of a tile, the tile, and a function that reads the gradient of y that sees it at a tap."""
        number = step * blocks + block
        places = geometry.places(number)

        def read(tap):
            return Tile(channels, *geometry.seers(places, tap)).read_gradient(dy, y, dsums)

        return number, Tile(channels, *places.of(geometry.size)), read

    def gradient_of_x(step, _):
        number, tile, read = tiles_of(step)

        def one_tap(tap, gradient):
            return gradient + dot(read(tap), _matrix(weights, tap, channels, plan, transposed=True))

        gradient = lax.fori_loop(0, geometry.taps, one_tap, jnp.zeros((POSITIONS, WIDTH), jnp.float32))
        tile.write_gradient(dx, daffine, number, gradient, x, affine, activation)
        return _

    def gradients_of_weights(taps, step, sums):
        _, tile, read = tiles_of(step)
        values = tile.read(x, affine, activation)
        return tuple(total + dot(values, read(tap), transposed=True) for tap, total in zip(taps, sums))

    lax.fori_loop(0, steps, gradient_of_x, 0)
    for first in range(0, geometry.taps, TAPS_AT_ONCE):
        taps = range(first, min(first + TAPS_AT_ONCE, geometry.taps))
        zeros = tuple(jnp.zeros((WIDTH, WIDTH), jnp.float32) for _ in taps)
        sums = lax.fori_loop(0, steps, functools.partial(gradients_of_weights, taps), zeros)
        for tap, dmatrix in zip(taps, sums):
            (image, tap, *indices), mask = _matrix_indices(tap, channels, plan)
            store(dweights, image, block, tap, *indices, value=dmatrix, mask=mask)


def _grid(x, blocks: int, plan: GroupedPlan) -> tuple[int, int, int]:
    return x.shape[0], blocks_of(x.shape[-1], plan.channels), blocks


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

    x: [batch, positions, channels]; weights: [batch, taps, members, channels]; affine: [2, batch, channels] or None.
    The results are [batch, positions, channels], and [2, batch, channels] or, not `with_sums`, None.
    """
    batch, _, channels = x.shape
    positions = math.prod(plan.geometry.output_size)
    blocks = blocks_of(positions, POSITIONS)
    outputs = (
        like(x, (batch, positions, channels)),
        sums_of_blocks(x, blocks, channels) if with_sums else None,
    )
    y, sums = call(
        functools.partial(_forward_kernel, plan=plan),
        "grouped_conv",
        (x, weights, affine),
        outputs,
        grid=_grid(x, blocks, plan),
        activation=activation,
        flops=2 * positions * weights.size,
        interpret=plan.interpret,
    )
    return y, added(sums)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (dy, dsums) = saved, gradients
    batch, positions, channels = x.shape
    tiles, blocks = blocks_of(positions, POSITIONS), plan.gradient_blocks(positions)
    outputs = (
        like(x, x.shape),
        like(x, (batch, blocks, *weights.shape[1:]), jnp.float32),
        None if affine is None else sums_of_blocks(x, tiles, channels),
    )
    dx, dweights, daffine = call(
        functools.partial(_backward_kernel, plan=plan),
        "grouped_conv_gradients",
        (x, dy, y, weights, affine, dsums if with_sums else None),
        outputs,
        grid=_grid(x, blocks, plan),
        activation=activation,
        flops=4 * math.prod(plan.geometry.output_size) * weights.size,
        warps=8,  # of 4, the matrices of all taps would not fit the registers
        interpret=plan.interpret,
    )
    return dx, dweights.sum(1).astype(weights.dtype), added(daffine)


convolve.defvjp(forward_rule(convolve), _backward)
