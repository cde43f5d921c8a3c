r"""The convolution over all channels with one kernel per image, for TPUs: kernels are fused in the fast memory.

The bank is read once and stays there. Image after image, its kernel $\tilde w = \sum_i \eta^i w^i$ is fused, used by
the matrix unit, and forgotten; so is its gradient, once it has gone into those of the bank and of the coefficients. XLA
would write them all, or g_t maps of features.

The columns of the window lie side by side in `spread` [rows / stride, stride, columns, kernel columns x C_in], so that
a row of the window is one matrix product, and the next row of the window another address.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.pallas.call import call, like
from dynet_jax.ops.pallas.normalizing import gradient_like, read, summed, unread
from dynet_jax.ops.pallas.plan import DensePlan, fold_of, fold_shape

BY_INPUTS = (((1,), (0,)), ((), ()))  # a @ b
BY_OUTPUTS = (((1,), (1,)), ((), ()))  # a @ b.T
BY_POSITIONS = (((0,), (0,)), ((), ()))  # a.T @ b


def _product(a, b, dimensions):
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _for_chunks(kernel_shape, plan: DensePlan, do):
    """`do` with some inputs of a kernel [kernel rows, kernel columns x C_in, C_out] at a time: a few vectors."""
    rows, inputs, _ = kernel_shape
    chunks = jnp.int32(inputs // plan.chunk)

    @pl.loop(0, rows * (inputs // plan.chunk))
    def _(number):
        do((lax.div(number, chunks), pl.ds(lax.rem(number, chunks) * plan.chunk, plan.chunk)))


def _at_first(do):
    pl.when(pl.program_id(0) == 0)(do)


def _load_bank(bank, bank32, plan: DensePlan):
    """Every image would have to turn it into float32 again."""

    def load(at):
        for i in range(bank.shape[0]):
            bank32[i, *at] = bank[i, *at].astype(jnp.float32)

    _at_first(lambda: _for_chunks(bank.shape[1:], plan, load))


def _fuse(bank32, coefficients, kernel, plan: DensePlan):
    def fuse(at):
        total = sum(bank32[i, *at] * coefficients[i : i + 1] for i in range(bank32.shape[0]))
        kernel[at] = total.astype(kernel.dtype)

    _for_chunks(kernel.shape, plan, fuse)


def _every(start, size, stride):
    return pl.ds(start, size, stride=stride) if stride > 1 else pl.ds(start, size)


def _window_columns(padded, spread, plan: DensePlan):
    """What the output's columns see of the padded image in a column of the window, and where it lies in `spread`."""
    tiles, _, _, lanes = padded.shape
    (_, stride), (_, dilation), columns = plan.window.strides, plan.window.kernel_dilation, spread.shape[2]
    for j, tile in itertools.product(range(plan.window.kernel_size[1]), range(tiles)):
        seen = _every(dilation * j, columns, stride)
        yield (pl.ds(tile, 1), slice(None), seen), (..., pl.ds((j * tiles + tile) * lanes, lanes))


def _folded(columns, channels, first=0):
    """Of an image with several columns in a vector: where channels and columns lie, by column of the vector."""
    fold = fold_of(columns, channels)
    for k in range(fold):
        yield pl.ds(k * channels, channels), _every(first + k, columns // fold, fold)


def _inside(padded, plan: DensePlan):
    """Lanes of an image, and where in the padded one they lie."""
    tiles, _, _, lanes = padded.shape
    (height, width), ((top, _), (left, _)) = plan.size, plan.window.padding
    rows = pl.ds(top, height)
    if tiles > 1:
        for tile in range(tiles):
            yield pl.ds(tile * lanes, lanes), (pl.ds(tile, 1), rows, pl.ds(left, width))
    else:
        for channels, columns in _folded(width, lanes, left):
            yield channels, (pl.ds(0, 1), rows, columns)


def _of_channels(affine, n, channels):
    """[2, channels], of an image, or None."""
    return None if affine is None else affine[n, :, channels]


def _spread_columns(x, affine, n, padded, spread, plan: DensePlan, activation):
    lanes = padded.shape[-1]
    for channels, place in _inside(padded, plan):
        padded[place] = read(x[pl.ds(n, 1), :, :, channels], _of_channels(affine, n, channels), activation)
    for seen, place in _window_columns(padded, spread, plan):
        spread[place] = padded[seen].reshape(*spread.shape[:3], lanes)


def _gather_columns(spread, padded, x, affine, n, dx, daffine, plan: DensePlan, activation):
    """The transpose of `_spread_columns`; `padded` is empty afterwards."""
    _, rows, _, lanes = padded.shape
    padded[...] = jnp.zeros_like(padded)
    for seen, place in _window_columns(padded, spread, plan):
        padded[seen] += spread[place].reshape(1, rows, -1, lanes)
    for channels, place in _inside(padded, plan):
        here, given = (pl.ds(n, 1), slice(None), slice(None), channels), padded[place]
        if affine is not None:
            given, *terms = unread(given, x[here], _of_channels(affine, n, channels), activation)
            for i, term in enumerate(terms):
                daffine[n, i, channels] = jnp.sum(term, axis=(0, 1, 2))
        dx[here] = given.astype(dx.dtype)
    padded[...] = jnp.zeros_like(padded)


def _for_rows(all_rows, plan: DensePlan, do):
    """`do` for some output rows at a time, with their slice and, by row of the window, where what they see lies."""
    offsets = [plan.window.kernel_dilation[0] * i for i in range(plan.window.kernel_size[0])]
    stride = plan.window.strides[0]

    @pl.loop(0, all_rows // plan.rows)
    def _(block):
        first = block * plan.rows
        do(pl.ds(first, plan.rows), [(pl.ds(first + at // stride, plan.rows), at % stride) for at in offsets])


def _matrix(view, dtype):
    """[rows, columns, channels] -> [positions, channels]"""
    return view.reshape(-1, view.shape[-1]).astype(dtype)


def _forward_kernel(
    x, bank, coefficients, affine, y, sums, bank32, padded, spread, kernel, rows_of_y, *, plan: DensePlan, activation
):
    _load_bank(bank, bank32, plan)
    padded[...] = jnp.zeros_like(padded)
    if sums is not None:
        sums[...] = jnp.zeros_like(sums)

    @pl.loop(0, x.shape[0])
    def _(n):
        _fuse(bank32, coefficients[n], kernel, plan)
        _spread_columns(x, affine, n, padded, spread, plan, activation)

        def some_rows(rows, seen):
            views = (_matrix(spread[view], x.dtype) for view in seen)
            total = sum(_product(view, kernel[i], BY_INPUTS) for i, view in enumerate(views))
            rows_of_y[...] = total.reshape(rows_of_y.shape)
            for channels, columns in _folded(plan.output_size[1], rows_of_y.shape[-1]):
                some = rows_of_y[:, columns].astype(y.dtype)
                y[n, rows, :, channels] = some
                if sums is not None:
                    some = some.astype(jnp.float32)  # as whoever reads it will see it
                    sums[n, 0] += jnp.sum(some, axis=(0, 1))
                    sums[n, 1] += jnp.sum(some * some, axis=(0, 1))

        _for_rows(y.shape[1], plan, some_rows)


def _backward_kernel(*refs, plan: DensePlan, activation):
    x, g, y, bank, coefficients, affine, dsums, dx, dbank, dcoefficients, daffine = refs[:11]
    bank32, padded, spread, kernel, rows_of_g, dspread, dkernel = refs[11:]
    _load_bank(bank, bank32, plan)
    padded[...] = jnp.zeros_like(padded)
    rows_of_g[...] = jnp.zeros_like(rows_of_g)

    def empty(at):
        for i in range(dbank.shape[0]):
            dbank[i, *at] = jnp.zeros((plan.chunk, dbank.shape[-1]), jnp.float32)

    _at_first(lambda: _for_chunks(dkernel.shape, plan, empty))

    @pl.loop(0, x.shape[0])
    def _(n):
        _fuse(bank32, coefficients[n], kernel, plan)
        _spread_columns(x, affine, n, padded, spread, plan, activation)
        dspread[...] = jnp.zeros_like(dspread)
        dkernel[...] = jnp.zeros_like(dkernel)

        def some_rows(rows, seen):
            for channels, columns in _folded(plan.output_size[1], rows_of_g.shape[-1]):
                here = n, rows, slice(None), channels
                own_sums = None if dsums is None else dsums[n]
                rows_of_g[:, columns] = summed(g[here], None if y is None else y[here], own_sums)
            gradient = _matrix(rows_of_g[...], x.dtype)
            for i, view in enumerate(seen):
                dkernel[i] += _product(_matrix(spread[view], x.dtype), gradient, BY_POSITIONS)
                dspread[view] += _product(gradient, kernel[i], BY_OUTPUTS).reshape(plan.rows, *spread.shape[2:])

        _for_rows(g.shape[1], plan, some_rows)
        _gather_columns(dspread, padded, x, affine, n, dx, daffine, plan, activation)
        _share_out(dkernel, bank32, coefficients[n], dbank, dcoefficients.at[n], plan)


def _share_out(dkernel, bank32, coefficients, dbank, dcoefficients, plan: DensePlan):
    """The gradient of a kernel, to what the kernel was fused from."""
    dcoefficients[...] = jnp.zeros_like(dcoefficients)

    def share(at):
        gradient = dkernel[at]
        for i in range(bank32.shape[0]):
            dbank[i, *at] += gradient * coefficients[i : i + 1]
            dcoefficients[i : i + 1] += jnp.sum(gradient * bank32[i, *at], axis=0, keepdims=True)

    _for_chunks(dkernel.shape, plan, share)


def _per_image(array, plan: DensePlan):
    zeros = (0,) * (array.ndim - 1)
    return pl.BlockSpec((plan.images, *array.shape[1:]), lambda n: (n, *zeros))


def _for_all(array, plan: DensePlan):
    """It comes and goes once, and needs no second buffer."""
    zeros = (0,) * array.ndim
    return pl.BlockSpec(array.shape, lambda n: zeros, pipeline_mode=pl.Buffered(1))


def _call(kernel, name, plan: DensePlan, arrays, outputs, bank_shape, scratch_shapes, products: int, activation):
    """Of `arrays` and `outputs`, (array, how it is cut) each. `products`: that are as large as the forward pass's."""
    positions = arrays[0][0].shape[0] * math.prod(plan.output_size)
    specs = [[None if a is None else cut(a, plan) for a, cut in operands] for operands in (arrays, outputs)]
    arrays, outputs = ([array for array, _ in operands] for operands in (arrays, outputs))
    return call(
        functools.partial(kernel, plan=plan),
        name,
        arrays,
        outputs,
        grid=(arrays[0].shape[0] // plan.images,),
        dimension_semantics=("arbitrary",),  # the bank's gradient is a sum over images
        in_specs=specs[0],
        out_specs=specs[1],
        scratch_shapes=scratch_shapes,
        activation=activation,
        flops=2 * products * positions * math.prod(bank_shape[1:]),
        interpret=plan.interpret,
    )


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
    """The convolution of activation(x * multiplier + offset), in x's dtype, and the sums of it and of its squares.

    x: [batch, *size, C_in] as `fold_shape` has it; bank: [group_size, kernel rows, kernel columns x C_in, C_out];
    coefficients: float32, [batch, group_size, C_out]; affine: [batch, 2, C_in], for every folded column, or None.
    Returns [batch, *output_size, C_out], folded too, and [batch, 2, C_out] or, not `with_sums`, None.
    All vary over the same devices.
    """
    output = fold_shape((x.shape[0], *plan.output_size, bank.shape[-1]))
    sums = like(x, (x.shape[0], 2, bank.shape[-1]), jnp.float32) if with_sums else None
    outputs = [(like(x, output), _per_image), (sums, _per_image)]
    arrays = [(x, _per_image), (bank, _for_all), (coefficients, _per_image), (affine, _per_image)]
    scratch = plan.scratch(bank, x.dtype)
    y, sums = _call(_forward_kernel, "dense_conv", plan, arrays, outputs, bank.shape, scratch, 1, activation)
    return y, sums


def _forward(x, bank, coefficients, affine, activation, with_sums, plan):
    y, sums = convolve(x, bank, coefficients, affine, activation, with_sums, plan)
    return (y, sums), (x, bank, coefficients, affine, y if with_sums else None)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, bank, coefficients, affine, y), (gradient, dsums) = saved, gradients
    arrays = [
        *((array, _per_image) for array in (x, gradient, y)),
        (bank, _for_all),
        *((array, _per_image) for array in (coefficients, affine, dsums)),
    ]
    outputs = [
        (like(x, x.shape), _per_image),
        (like(x, bank.shape, jnp.float32), _for_all),
        (like(x, coefficients.shape, jnp.float32), _per_image),
        (gradient_like(x, affine), _per_image),
    ]
    name, scratch = "dense_conv_gradients", plan.gradient_scratch(bank, x.dtype)
    dx, dbank, dcoefficients, daffine = _call(
        _backward_kernel, name, plan, arrays, outputs, bank.shape, scratch, 2, activation
    )
    return dx, dbank.astype(bank.dtype), dcoefficients, daffine


convolve.defvjp(_forward, _backward)
