r"""The convolution over all channels with one kernel per image, for GPUs: an implicit matrix product.

$y_p = \sum_t x_{p+t} W_t$: for each position t of the window, a product of the positions of x that a tile of y sees and
of the image's kernel. The image's kernel is fused from the bank where it is used, $W_t = \sum_i \eta^i w^i_t$, for some
images at once, and is forgotten; or XLA has fused it before (`DensePlan.tiling`). Its gradient is never written: blocks
of threads go from image to image with their tile of the bank, and add up its gradient and that of the coefficients.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.fusion import fuse_kernels
from dynet_jax.ops.gpu.call import added, call, dot, lanes, load, store, sums_of_blocks
from dynet_jax.ops.gpu.geometry import POSITIONS
from dynet_jax.ops.gpu.plans import DensePlan, Tiling, blocks_of
from dynet_jax.ops.gpu.tiles import Channels, Tile
from dynet_jax.ops.pallas import forward_rule, like


def _images(count: int, batch: int) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the images of this block of threads, and whether the batch has them."""
    first = pl.program_id(0) * count
    return [(jnp.minimum(first + i, batch - 1), first + i < batch) for i in range(count)]


def _of_images(images, numbers: jax.Array, inside: jax.Array) -> list[Channels]:
    return [Channels(image, numbers, inside & exists) for image, exists in images]


def _matrices(
    weights, coefficients, tap, inputs: Channels, outputs: Sequence[Channels], dtype, *, transposed: bool = False
) -> list[jax.Array]:
    """Returns the matrix of a tap for each image, [in, out] or, if transposed, [out, in]: read, or fused from the bank.

    weights: [batch, taps, C_in, C_out], or the bank with its kernels in place of images.
    """

    def row(values):
        return values[:, None] if transposed else values[None, :]

    def column(values):
        return values[None, :] if transposed else values[:, None]

    def matrix(number, outputs):
        indices = number, tap, column(inputs.numbers), row(outputs.numbers)
        return load(weights, *indices, mask=column(inputs.inside) & row(outputs.inside))

    if coefficients is None:
        return [matrix(channels.image, channels) for channels in outputs]

    def add(i, fused):
        kernel = matrix(i, outputs[0]).astype(jnp.float32)
        factors = (load(coefficients, each.image, i, each.numbers, mask=each.inside) for each in outputs)
        return tuple(total + kernel * row(factor) for total, factor in zip(fused, factors))

    # A loop, because the compiler would otherwise keep the coefficients of all images and kernels in registers.
    shape = (len(outputs[0].numbers), len(inputs.numbers))
    zeros = (jnp.zeros(shape if transposed else shape[::-1], jnp.float32),) * len(outputs)
    return [total.astype(dtype) for total in lax.fori_loop(0, weights.shape[0], add, zeros)]


def _sums_of_products(operands, taps: int, chunks: int, columns: int, images: int):
    """Returns, for each image, the sum of products over all taps of the window and tiles of channels.

    operands: from a tap and a tile of channels to the values and the matrices of all images.
    """

    def add(step, totals):
        values, matrices = operands(lax.div(step, jnp.int32(chunks)), lax.rem(step, jnp.int32(chunks)))
        return tuple(total + dot(*pair) for total, *pair in zip(totals, values, matrices))

    zeros = tuple(jnp.zeros((POSITIONS, columns), jnp.float32) for _ in range(images))
    return lax.fori_loop(0, taps * chunks, add, zeros)


def _forward_kernel(x, weights, coefficients, affine, y, sums, *, plan: DensePlan, tiling: Tiling, activation):
    (batch, _, c_in), c_out = x.shape, y.shape[-1]
    block, columns, depth = pl.program_id(2), tiling.columns(c_out), tiling.depth(c_in)
    geometry, images, chunks = plan.geometry, _images(tiling.images, batch), blocks_of(c_in, depth)
    places = geometry.output_places(block)
    outputs = _of_images(images, *lanes(pl.program_id(1) * columns, columns, c_out))

    def operands(tap, chunk):
        seen, inputs = geometry.seen(places, tap), _of_images(images, *lanes(chunk * depth, depth, c_in))
        matrices = _matrices(weights, coefficients, tap, inputs[0], outputs, x.dtype)
        values = (Tile(channels, *seen).read(x, channels.rows(affine), activation) for channels in inputs)
        return values, matrices

    totals = _sums_of_products(operands, geometry.taps, chunks, columns, len(images))
    for channels, total in zip(outputs, totals):
        Tile(channels, *places.of(geometry.output_size)).write(y, sums, block, total)


def _input_gradient_kernel(
    x, dy, y, weights, coefficients, affine, dsums, dx, daffine, *, plan: DensePlan, tiling: Tiling, activation
):
    (batch, _, c_in), c_out = x.shape, dy.shape[-1]
    block, columns, depth = pl.program_id(2), tiling.columns(c_in), tiling.depth(c_out)
    geometry, images, chunks = plan.geometry, _images(tiling.images, batch), blocks_of(c_out, depth)
    places = geometry.places(block)
    inputs = _of_images(images, *lanes(pl.program_id(1) * columns, columns, c_in))

    def operands(tap, chunk):
        seers, outputs = geometry.seers(places, tap), _of_images(images, *lanes(chunk * depth, depth, c_out))
        matrices = _matrices(weights, coefficients, tap, inputs[0], outputs, x.dtype, transposed=True)
        gradients = (Tile(channels, *seers).read_gradient(dy, y, channels.rows(dsums)) for channels in outputs)
        return gradients, matrices

    totals = _sums_of_products(operands, geometry.taps, chunks, columns, len(images))
    for channels, total in zip(inputs, totals):
        tile = Tile(channels, *places.of(geometry.size))
        tile.write_gradient(dx, daffine, block, total, x, channels.rows(affine), activation)


def _bank_gradient_kernel(
    x, dy, y, bank, coefficients, affine, dsums, dbank, dcoefficients, *, plan: DensePlan, activation
):
    """Goes from image to image with one tile of the bank; `dcoefficients` are parts, of each tap and tile of inputs."""
    batch, (group_size, _, c_in, c_out) = x.shape[0], bank.shape
    tile, geometry = pl.program_id(0), plan.geometry
    rows, columns = plan.bank_tile(group_size, c_in, c_out)
    chunks, steps = blocks_of(c_in, rows), blocks_of(math.prod(geometry.output_size), POSITIONS)
    tap, chunk = lax.div(tile, jnp.int32(chunks)), lax.rem(tile, jnp.int32(chunks))
    inputs, outputs = lanes(chunk * rows, rows, c_in), lanes(pl.program_id(1) * columns, columns, c_out)
    part = blocks_of(batch, dbank.shape[0])
    first = pl.program_id(2) * part
    at = tap, inputs[0][:, None], outputs[0][None, :]
    mask = inputs[1][:, None] & outputs[1][None, :]

    def gradient_of_kernel(image):
        seeing, seen = Channels(image, *outputs), Channels(image, *inputs)
        affine_rows, dsums_rows = seen.rows(affine), seeing.rows(dsums)

        def some_positions(step, total):
            places = geometry.output_places(step)
            values = Tile(seen, *geometry.seen(places, tap)).read(x, affine_rows, activation)
            seers = Tile(seeing, *places.of(geometry.output_size))
            return total + dot(values, seers.read_gradient(dy, y, dsums_rows), transposed=True)

        return lax.fori_loop(0, steps, some_positions, jnp.zeros((rows, columns), jnp.float32))

    def one_image(image, totals):
        dkernel, found = gradient_of_kernel(image), []
        for i, total in enumerate(totals):
            gradient = jnp.sum(dkernel * load(bank, i, *at, mask=mask).astype(jnp.float32), axis=0)
            store(dcoefficients, image, tile, i, outputs[0], value=gradient, mask=outputs[1])
            factor = load(coefficients, image, i, outputs[0], mask=outputs[1])
            found.append(total + dkernel * factor[None, :])
        return tuple(found)

    zeros = tuple(jnp.zeros((rows, columns), jnp.float32) for _ in range(group_size))
    for i, total in enumerate(lax.fori_loop(first, jnp.minimum(first + part, batch), one_image, zeros)):
        store(dbank, pl.program_id(2), i, *at, value=total, mask=mask)


def _weights(x, bank, coefficients, tiling: Tiling):
    """Returns what kernels of images are made of: the bank and coefficients, or what XLA has fused and None."""
    return (bank, coefficients) if tiling.fuses else (fuse_kernels(bank, coefficients).astype(x.dtype), None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def convolve(
    x: jax.Array,
    bank: jax.Array,
    coefficients: jax.Array,
    affine: jax.Array | None,
    activation: str | None,
    with_sums: bool,
    plan: DensePlan,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the convolution of activation(x * multiplier + offset), in x's dtype, and its sums and those of squares.

    x: [batch, positions, C_in]; bank: [group_size, taps, C_in, C_out]; coefficients: float32, [batch, group_size,
    C_out]; affine: [2, batch, C_in] or None. The results are [batch, positions, C_out], and [2, batch, C_out] or, not
    `with_sums`, None.
    """
    batch, positions, c_out = x.shape[0], math.prod(plan.geometry.output_size), bank.shape[-1]
    blocks = blocks_of(positions, POSITIONS)
    tiling = plan.tiling(positions)
    y, sums = call(
        functools.partial(_forward_kernel, plan=plan, tiling=tiling),
        "dense_conv",
        (x, *_weights(x, bank, coefficients, tiling), affine),
        (like(x, (batch, positions, c_out)), sums_of_blocks(x, blocks, c_out) if with_sums else None),
        grid=tiling.grid(batch, c_out, blocks),
        activation=activation,
        flops=2 * batch * positions * math.prod(bank.shape[1:]),
        warps=tiling.warps,
        interpret=plan.interpret,
    )
    return y, added(sums)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, bank, coefficients, affine, y), (dy, dsums) = saved, gradients
    maps, dsums = (x, dy, y), dsums if with_sums else None
    (batch, positions, c_in), blocks = x.shape, blocks_of(x.shape[1], POSITIONS)
    flops = 2 * batch * math.prod(plan.geometry.output_size) * math.prod(bank.shape[1:])
    common = dict(activation=activation, flops=flops, interpret=plan.interpret)
    tiling = plan.tiling(positions)
    dx, daffine = call(
        functools.partial(_input_gradient_kernel, plan=plan, tiling=tiling),
        "dense_conv_input_gradients",
        (*maps, *_weights(x, bank, coefficients, tiling), affine, dsums),
        (like(x, x.shape), None if affine is None else sums_of_blocks(x, blocks, c_in)),
        grid=tiling.grid(batch, c_in, blocks),
        warps=tiling.warps,
        **common,
    )
    dbank, dcoefficients = _bank_gradients(maps, bank, coefficients, affine, dsums, plan, common)
    return dx, dbank, dcoefficients, added(daffine)


def _bank_gradients(maps, bank, coefficients, affine, dsums, plan: DensePlan, common):
    x, (group_size, taps, c_in, c_out) = maps[0], bank.shape
    rows, columns = plan.bank_tile(group_size, c_in, c_out)
    tiles, tiles_out = taps * blocks_of(c_in, rows), blocks_of(c_out, columns)
    parts = plan.image_parts(x.shape[0], tiles * tiles_out)
    dbank, dcoefficients = call(
        functools.partial(_bank_gradient_kernel, plan=plan),
        "dense_conv_bank_gradients",
        (*maps, bank, coefficients, affine, dsums),
        (
            like(x, (parts, *bank.shape), bank.dtype if parts == 1 else jnp.float32),
            like(x, (x.shape[0], tiles, *coefficients.shape[1:]), jnp.float32),
        ),
        grid=(tiles, tiles_out, parts),
        warps=8,  # of 4, the gradients of all kernels of the bank would not fit the registers
        **common,
    )
    return dbank.sum(0).astype(bank.dtype), dcoefficients.sum(1)


convolve.defvjp(forward_rule(convolve), _backward)
