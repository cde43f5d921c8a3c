r"""The convolution over all channels with one kernel per image, for TPUs: kernels are fused in VMEM.

The bank is read once and stays there. Image after image, its kernel $\tilde w = \sum_i \eta^i w^i$ is fused, used by
the matrix unit, and forgotten; so is its gradient, once it has been added to those of the bank and of the coefficients.
XLA would write them all, or g_t maps of features.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.normalizing import add_gradient_of_sums, gradient_like
from dynet_jax.ops.pallas import forward_rule, like
from dynet_jax.ops.tpu.call import call
from dynet_jax.ops.tpu.dense_plan import DensePlan, fold_shape
from dynet_jax.ops.tpu.patches import col2im, im2col, unfold_columns

BY_INPUTS = (((1,), (0,)), ((), ()))  # a @ b
BY_OUTPUTS = (((1,), (1,)), ((), ()))  # a @ b.T
BY_POSITIONS = (((0,), (0,)), ((), ()))  # a.T @ b


def _product(a, b, dimensions):
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _for_chunks(kernel_shape, plan: DensePlan, do):
    """Calls `do` with some inputs of a kernel [kernel rows, kernel columns x C_in, C_out] at a time: a few vectors."""
    rows, inputs, _ = kernel_shape
    chunks = jnp.int32(inputs // plan.chunk)

    @pl.loop(0, rows * (inputs // plan.chunk))
    def _(number):
        do((lax.div(number, chunks), pl.ds(lax.rem(number, chunks) * plan.chunk, plan.chunk)))


def _at_first_block(do):
    pl.when(pl.program_id(0) == 0)(do)


def _load_bank(bank, bank32, plan: DensePlan):
    """Converts the bank to float32 once, and not again for every image."""

    def load(at):
        for i in range(bank.shape[0]):
            bank32[i, *at] = bank[i, *at].astype(jnp.float32)

    _at_first_block(lambda: _for_chunks(bank.shape[1:], plan, load))


def _zero_bank_gradient(dbank, plan: DensePlan):
    def zero(at):
        for i in range(dbank.shape[0]):
            dbank[i, *at] = jnp.zeros((plan.chunk, dbank.shape[-1]), jnp.float32)

    _at_first_block(lambda: _for_chunks(dbank.shape[1:], plan, zero))


def _fuse(bank32, coefficients, kernel, plan: DensePlan):
    def fuse(at):
        terms = (bank32[i, *at] * coefficients[i : i + 1] for i in range(bank32.shape[0]))
        kernel[at] = functools.reduce(operator.add, terms).astype(kernel.dtype)

    _for_chunks(kernel.shape, plan, fuse)


def _add_fusion_gradients(dkernel, bank32, coefficients, dbank, dcoefficients, plan: DensePlan):
    """Adds the gradient of an image's kernel to that of the bank, and writes that of the image's coefficients."""
    dcoefficients[...] = jnp.zeros_like(dcoefficients)

    def add(at):
        gradient = dkernel[at]
        for i in range(bank32.shape[0]):
            dbank[i, *at] += gradient * coefficients[i : i + 1]
            dcoefficients[i : i + 1] += jnp.sum(gradient * bank32[i, *at], axis=0, keepdims=True)

    _for_chunks(dkernel.shape, plan, add)


def _for_rows(all_rows, plan: DensePlan, do):
    """Calls `do` for some output rows at a time, with their slice and, by row of the window, that of their patches."""
    offsets = [plan.window.kernel_dilation[0] * i for i in range(plan.window.kernel_size[0])]
    stride = plan.window.strides[0]

    @pl.loop(0, all_rows // plan.rows)
    def _(block):
        first = block * plan.rows
        do(pl.ds(first, plan.rows), [(pl.ds(first + at // stride, plan.rows), at % stride) for at in offsets])


def _matrix(view, dtype):
    """[rows, columns, channels] -> [positions, channels]"""
    return view.reshape(-1, view.shape[-1]).astype(dtype)


def _forward_kernel(x, bank, coefficients, affine, y, sums, scratch, *, plan: DensePlan, activation):
    _load_bank(bank, scratch.bank, plan)
    scratch.image[...] = jnp.zeros_like(scratch.image)
    if sums is not None:
        sums[...] = jnp.zeros_like(sums)

    @pl.loop(0, x.shape[0])
    def _(n):
        _fuse(scratch.bank, coefficients[n], scratch.kernel, plan)
        im2col(x, affine, n, scratch.image, scratch.patches, plan, activation)

        def some_rows(rows, views):
            matrices = (_matrix(scratch.patches[view], x.dtype) for view in views)
            products = (_product(matrix, scratch.kernel[i], BY_INPUTS) for i, matrix in enumerate(matrices))
            scratch.rows[...] = functools.reduce(operator.add, products).reshape(scratch.rows.shape)
            for channels, columns in unfold_columns(plan.output_size[1], scratch.rows.shape[-1]):
                values = scratch.rows[:, columns].astype(y.dtype)
                y[n, rows, :, channels] = values
                if sums is not None:
                    values = values.astype(jnp.float32)  # rounded to y's dtype, as they will be read
                    sums[n, 0] += jnp.sum(values, axis=(0, 1))
                    sums[n, 1] += jnp.sum(values * values, axis=(0, 1))

        _for_rows(y.shape[1], plan, some_rows)


def _backward_kernel(
    x, dy, y, bank, coefficients, affine, dsums, dx, dbank, dcoefficients, daffine, scratch, *, plan, activation
):
    _load_bank(bank, scratch.bank, plan)
    scratch.image[...] = jnp.zeros_like(scratch.image)
    scratch.rows[...] = jnp.zeros_like(scratch.rows)
    _zero_bank_gradient(dbank, plan)
    block_shape = (plan.rows, *scratch.patches.shape[2:])

    @pl.loop(0, x.shape[0])
    def _(n):
        _fuse(scratch.bank, coefficients[n], scratch.kernel, plan)
        im2col(x, affine, n, scratch.image, scratch.patches, plan, activation)
        scratch.dpatches[...] = jnp.zeros_like(scratch.dpatches)
        scratch.dkernel[...] = jnp.zeros_like(scratch.dkernel)

        def some_rows(rows, views):
            for channels, columns in unfold_columns(plan.output_size[1], scratch.rows.shape[-1]):
                at = n, rows, slice(None), channels
                dsums_of_image = None if dsums is None else dsums[n]
                scratch.rows[:, columns] = add_gradient_of_sums(dy[at], None if y is None else y[at], dsums_of_image)
            gradient = _matrix(scratch.rows[...], x.dtype)
            for i, view in enumerate(views):
                scratch.dkernel[i] += _product(_matrix(scratch.patches[view], x.dtype), gradient, BY_POSITIONS)
                scratch.dpatches[view] += _product(gradient, scratch.kernel[i], BY_OUTPUTS).reshape(block_shape)

        _for_rows(dy.shape[1], plan, some_rows)
        col2im(scratch.dpatches, scratch.image, x, affine, n, dx, daffine, plan, activation)
        _add_fusion_gradients(scratch.dkernel, scratch.bank, coefficients[n], dbank, dcoefficients.at[n], plan)


def _per_image(arrays, plan: DensePlan):
    def spec(array):
        zeros = (0,) * (array.ndim - 1)
        return pl.BlockSpec((plan.images, *array.shape[1:]), lambda n: (n, *zeros))

    return jax.tree.map(spec, arrays)


def _whole(array):
    """It comes and goes once, and needs no second buffer."""
    zeros = (0,) * array.ndim
    return pl.BlockSpec(array.shape, lambda n: zeros, pipeline_mode=pl.Buffered(1))


def _call(kernel, name, inputs, in_specs, outputs, out_specs, scratch, products: int, plan: DensePlan, activation):
    """Runs a kernel image after image. `products`: that are as large as the forward pass's."""
    images = inputs[0].shape[0]
    return call(
        functools.partial(kernel, plan=plan),
        name,
        inputs,
        outputs,
        scratch,
        grid=(images // plan.images,),
        dimension_semantics=("arbitrary",),  # the bank's gradient is a sum over images
        in_specs=in_specs,
        out_specs=out_specs,
        activation=activation,
        flops=2 * products * images * math.prod(plan.output_size) * math.prod(scratch.kernel.shape),
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
    """Returns the convolution of activation(x * multiplier + offset), in x's dtype, and its sums and those of squares.

    x: [batch, *size, C_in] as `fold_shape` has it; bank: [group_size, kernel rows, kernel columns x C_in, C_out];
    coefficients: float32, [batch, group_size, C_out]; affine: [batch, 2, C_in], for every folded column, or None.
    The results are [batch, *output_size, C_out], folded too, and [batch, 2, C_out] or, not `with_sums`, None.
    All vary over the same devices.
    """
    y = like(x, fold_shape((x.shape[0], *plan.output_size, bank.shape[-1])))
    sums = like(x, (x.shape[0], 2, bank.shape[-1]), jnp.float32) if with_sums else None
    inputs, outputs = (x, bank, coefficients, affine), (y, sums)
    in_specs = (_per_image(x, plan), _whole(bank), *_per_image((coefficients, affine), plan))
    out_specs, scratch = _per_image(outputs, plan), plan.scratch(x, bank)
    return _call(_forward_kernel, "dense_conv", inputs, in_specs, outputs, out_specs, scratch, 1, plan, activation)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, bank, coefficients, affine, y), (dy, dsums) = saved, gradients
    maps, others = (x, dy, y), (coefficients, affine, dsums)
    inputs, in_specs = (*maps, bank, *others), (*_per_image(maps, plan), _whole(bank), *_per_image(others, plan))
    dx, dbank = like(x, x.shape), like(x, bank.shape, jnp.float32)
    dothers = like(x, coefficients.shape, jnp.float32), gradient_like(x, affine)
    outputs, out_specs = (dx, dbank, *dothers), (_per_image(dx, plan), _whole(dbank), *_per_image(dothers, plan))
    name, scratch = "dense_conv_gradients", plan.gradient_scratch(x, bank)
    dx, dbank, dcoefficients, daffine = _call(
        _backward_kernel, name, inputs, in_specs, outputs, out_specs, scratch, 2, plan, activation
    )
    return dx, dbank.astype(bank.dtype), dcoefficients, daffine


convolve.defvjp(forward_rule(convolve), _backward)
