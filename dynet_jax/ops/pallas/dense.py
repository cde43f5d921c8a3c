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
from dynet_jax.ops.pallas.plan import DensePlan, fold_of, fold_shape, padded_bytes

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


def _spread_columns(x, n, padded, spread, plan: DensePlan):
    lanes = padded.shape[-1]
    for channels, place in _inside(padded, plan):
        padded[place] = x[pl.ds(n, 1), :, :, channels].astype(jnp.float32)
    for seen, place in _window_columns(padded, spread, plan):
        spread[place] = padded[seen].reshape(*spread.shape[:3], lanes)


def _gather_columns(spread, padded, dx, n, plan: DensePlan):
    """The transpose of `_spread_columns`; `padded` is empty afterwards."""
    _, rows, _, lanes = padded.shape
    padded[...] = jnp.zeros_like(padded)
    for seen, place in _window_columns(padded, spread, plan):
        padded[seen] += spread[place].reshape(1, rows, -1, lanes)
    for channels, place in _inside(padded, plan):
        dx[pl.ds(n, 1), :, :, channels] = padded[place].astype(dx.dtype)
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


def _forward_kernel(x, bank, coefficients, y, bank32, padded, spread, kernel, rows_of_y, *, plan: DensePlan):
    _load_bank(bank, bank32, plan)
    padded[...] = jnp.zeros_like(padded)

    @pl.loop(0, x.shape[0])
    def _(n):
        _fuse(bank32, coefficients[n], kernel, plan)
        _spread_columns(x, n, padded, spread, plan)

        def some_rows(rows, seen):
            views = (_matrix(spread[view], x.dtype) for view in seen)
            total = sum(_product(view, kernel[i], BY_INPUTS) for i, view in enumerate(views))
            rows_of_y[...] = total.reshape(rows_of_y.shape)
            for channels, columns in _folded(plan.output_size[1], rows_of_y.shape[-1]):
                y[n, rows, :, channels] = rows_of_y[:, columns].astype(y.dtype)

        _for_rows(y.shape[1], plan, some_rows)


def _backward_kernel(x, g, bank, coefficients, dx, dbank, dcoefficients, *scratch, plan: DensePlan):
    bank32, padded, spread, kernel, rows_of_g, dspread, dkernel = scratch
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
        _spread_columns(x, n, padded, spread, plan)
        dspread[...] = jnp.zeros_like(dspread)
        dkernel[...] = jnp.zeros_like(dkernel)

        def some_rows(rows, seen):
            for channels, columns in _folded(plan.output_size[1], rows_of_g.shape[-1]):
                rows_of_g[:, columns] = g[n, rows, :, channels].astype(jnp.float32)
            gradient = _matrix(rows_of_g[...], x.dtype)
            for i, view in enumerate(seen):
                dkernel[i] += _product(_matrix(spread[view], x.dtype), gradient, BY_POSITIONS)
                dspread[view] += _product(gradient, kernel[i], BY_OUTPUTS).reshape(plan.rows, *spread.shape[2:])

        _for_rows(g.shape[1], plan, some_rows)
        _gather_columns(dspread, padded, dx, n, plan)
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


def _call(kernel, name, plan: DensePlan, arrays, outputs, scratch_shapes, products: int):
    """Of `arrays` and `outputs`, (array, how it is cut) each. `products`: that are as large as the forward pass's."""
    [bank] = [array for array, cut in arrays if cut is _for_all]
    positions = arrays[0][0].shape[0] * math.prod(plan.output_size)
    specs = [[cut(array, plan) for array, cut in operands] for operands in (arrays, outputs)]
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
        flops=2 * products * positions * math.prod(bank.shape[1:]),
        bytes_accessed=sum(padded_bytes(array.shape, array.dtype) for array in (*arrays, *outputs)),
        interpret=plan.interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def convolve(x: jax.Array, bank: jax.Array, coefficients: jax.Array, plan: DensePlan) -> jax.Array:
    """[batch, *size, C_in] -> [batch, *output_size, C_out], in x's dtype; both as `fold_shape` has them.

    bank: [group_size, kernel rows, kernel columns x C_in, C_out]; coefficients: float32, [batch, group_size, C_out].
    All vary over the same devices.
    """
    output = fold_shape((x.shape[0], *plan.output_size, bank.shape[-1]))
    outputs = [(like(x, output), _per_image)]
    arrays = [(x, _per_image), (bank, _for_all), (coefficients, _per_image)]
    return _call(_forward_kernel, "dense_conv", plan, arrays, outputs, plan.scratch(bank, x.dtype), products=1)[0]


def _forward(x, bank, coefficients, plan):
    return convolve(x, bank, coefficients, plan), (x, bank, coefficients)


def _backward(plan, saved, gradient):
    x, bank, coefficients = saved
    arrays = [(x, _per_image), (gradient, _per_image), (bank, _for_all), (coefficients, _per_image)]
    outputs = [
        (like(x, x.shape), _per_image),
        (like(x, bank.shape, jnp.float32), _for_all),
        (like(x, coefficients.shape, jnp.float32), _per_image),
    ]
    name, scratch = "dense_conv_gradients", plan.gradient_scratch(bank, x.dtype)
    dx, dbank, dcoefficients = _call(_backward_kernel, name, plan, arrays, outputs, scratch, products=2)
    return dx, dbank.astype(bank.dtype), dcoefficients


convolve.defvjp(_forward, _backward)
