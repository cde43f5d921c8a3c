r"""The 1x1 convolution with one kernel per image, for GPUs: a batched matrix product that normalises and sums.

The product itself XLA does as well, but it would read and write the maps once more for BatchNorm on either side.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.gpu.call import added, call, dot, lanes, load, store, sums_of_blocks
from dynet_jax.ops.gpu.geometry import POSITIONS
from dynet_jax.ops.gpu.plans import PointwisePlan, blocks_of, tile_width
from dynet_jax.ops.gpu.tiles import Channels, Tile
from dynet_jax.ops.pallas import forward_rule, like


def _channels(image, block, width: int, limit: int) -> Channels:
    return Channels(image, *lanes(block * width, width, limit))


def _matrix(weights, rows: Channels, columns: Channels, *, transposed: bool = False) -> jax.Array:
    """Returns the image's weights between channels in (rows) and out; if transposed, rows are channels out."""
    inputs, outputs = rows.numbers[:, None], columns.numbers[None, :]
    if transposed:
        inputs, outputs = outputs, inputs
    mask = rows.inside[:, None] & columns.inside[None, :]
    return load(weights, rows.image, inputs, outputs, mask=mask)


def _forward_kernel(x, weights, affine, y, sums, *, activation):
    c_in, c_out = x.shape[-1], y.shape[-1]
    image, block = pl.program_id(0), pl.program_id(2)
    width, depth = tile_width(c_out), tile_width(c_in)
    positions, inside = lanes(block * POSITIONS, POSITIONS, x.shape[1])
    outputs = _channels(image, pl.program_id(1), width, c_out)

    def some_inputs(step, total):
        inputs = _channels(image, step, depth, c_in)
        values = Tile(inputs, positions, inside).read(x, inputs.rows(affine), activation)
        return total + dot(values, _matrix(weights, inputs, outputs))

    total = lax.fori_loop(0, blocks_of(c_in, depth), some_inputs, jnp.zeros((POSITIONS, width), jnp.float32))
    Tile(outputs, positions, inside).write(y, sums, block, total)


def _input_gradient_kernel(x, dy, y, weights, affine, dsums, dx, daffine, *, activation):
    c_in, c_out = x.shape[-1], dy.shape[-1]
    image, block = pl.program_id(0), pl.program_id(2)
    width, depth = tile_width(c_in), tile_width(c_out)
    positions, inside = lanes(block * POSITIONS, POSITIONS, x.shape[1])
    inputs = _channels(image, pl.program_id(1), width, c_in)

    def some_outputs(step, total):
        outputs = _channels(image, step, depth, c_out)
        gradient = Tile(outputs, positions, inside).read_gradient(dy, y, outputs.rows(dsums))
        return total + dot(gradient, _matrix(weights, outputs, inputs, transposed=True))

    total = lax.fori_loop(0, blocks_of(c_out, depth), some_outputs, jnp.zeros((POSITIONS, width), jnp.float32))
    tile = Tile(inputs, positions, inside)
    tile.write_gradient(dx, daffine, block, total, x, inputs.rows(affine), activation)


def _weight_gradient_kernel(x, dy, y, affine, dsums, dweights, *, activation):
    c_in, c_out, image = x.shape[-1], dy.shape[-1], pl.program_id(0)
    inputs = _channels(image, pl.program_id(1), tile_width(c_in), c_in)
    outputs = _channels(image, pl.program_id(2), tile_width(c_out), c_out)
    affine, dsums = inputs.rows(affine), outputs.rows(dsums)

    def some_positions(step, total):
        places = lanes(step * POSITIONS, POSITIONS, x.shape[1])
        values = Tile(inputs, *places).read(x, affine, activation)
        return total + dot(values, Tile(outputs, *places).read_gradient(dy, y, dsums), transposed=True)

    zeros = jnp.zeros((tile_width(c_in), tile_width(c_out)), jnp.float32)
    total = lax.fori_loop(0, blocks_of(x.shape[1], POSITIONS), some_positions, zeros)
    at = inputs.image, inputs.numbers[:, None], outputs.numbers[None, :]
    store(dweights, *at, value=total, mask=inputs.inside[:, None] & outputs.inside[None, :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def convolve(
    x: jax.Array,
    weights: jax.Array,
    affine: jax.Array | None,
    activation: str | None,
    with_sums: bool,
    plan: PointwisePlan,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the convolution of activation(x * multiplier + offset), in x's dtype, and its sums and those of squares.

    x: [batch, positions, C_in]; weights: [batch, C_in, C_out]; affine: [2, batch, C_in] or None.
    The results are [batch, positions, C_out], and [2, batch, C_out] or, not `with_sums`, None.
    """
    batch, positions, _ = x.shape
    c_out, blocks = weights.shape[-1], blocks_of(positions, POSITIONS)
    outputs = (
        like(x, (batch, positions, c_out)),
        sums_of_blocks(x, blocks, c_out) if with_sums else None,
    )
    y, sums = call(
        _forward_kernel,
        "pointwise_conv",
        (x, weights, affine),
        outputs,
        grid=(batch, blocks_of(c_out, tile_width(c_out)), blocks),
        activation=activation,
        flops=2 * positions * weights.size,
        interpret=plan.interpret,
    )
    return y, added(sums)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (dy, dsums) = saved, gradients
    dsums = dsums if with_sums else None
    batch, positions, c_in = x.shape
    c_out, blocks = weights.shape[-1], blocks_of(positions, POSITIONS)
    tiles_in, tiles_out = (blocks_of(channels, tile_width(channels)) for channels in (c_in, c_out))
    common = dict(activation=activation, flops=2 * positions * weights.size, interpret=plan.interpret)
    daffine = None if affine is None else sums_of_blocks(x, blocks, c_in)
    dx, daffine = call(
        _input_gradient_kernel,
        "pointwise_conv_input_gradients",
        (x, dy, y, weights, affine, dsums),
        (like(x, x.shape), daffine),
        grid=(batch, tiles_in, blocks),
        **common,
    )
    (dweights,) = call(
        _weight_gradient_kernel,
        "pointwise_conv_weight_gradients",
        (x, dy, y, affine, dsums),
        (like(x, weights.shape, weights.dtype),),
        grid=(batch, tiles_in, tiles_out),
        **common,
    )
    return dx, dweights, added(daffine)


convolve.defvjp(forward_rule(convolve), _backward)
