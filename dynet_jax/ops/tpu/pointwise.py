"""The 1x1 convolution with one kernel per image, for TPUs and few channels: images fill the lanes.

A batched matrix product has images as its slowest axis and at most 40 of the matrix unit's 128 columns to fill, and
the layers around it have to change between that layout and one whose vectors are full. Here a vector holds one channel
of 128 images, and every product of a channel in and a channel out is a multiply-add of whole vectors.
"""

import functools
import math
import operator

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
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan

AT_ONCE = 4  # positions that are summed before they are added to a sum over all of them in memory


def _product(x, weights):
    """x [in, images], weights [in, out, images] -> [out, images]: a sum over the channels in."""
    return functools.reduce(operator.add, (x[i : i + 1] * weights[i] for i in range(weights.shape[0])))


def _forward_kernel(x, weights, affine, y, sums, scratch, *, activation):
    scratch.weights[...] = weights[...].astype(jnp.float32)
    zero_at_first_rows(sums)

    def some_positions(positions):
        blocks = (normalize_block(x[at], affine, activation) for at in positions)
        values = [_product(block, scratch.weights).astype(y.dtype) for block in blocks]
        for at, value in zip(positions, values):
            y[at] = value
        if sums is not None:
            values = [value.astype(jnp.float32) for value in values]  # rounded to y's dtype, as they will be read
            sums[0] += sum(values)
            sums[1] += sum(value * value for value in values)

    _for_positions(x.shape, some_positions)


def _backward_kernel(x, dy, y, affine, dsums, weights, dx, dweights, daffine, scratch, *, activation):
    # weights: [out, in, images] here
    scratch.weights[...] = weights[...].astype(jnp.float32)
    zero_at_first_rows(dweights, daffine)

    def some_positions(positions):
        xs = [normalize_block(x[at], affine, activation) for at in positions]
        dys = [add_gradient_of_sums(dy[at], None if y is None else y[at], dsums) for at in positions]
        dxs = [_product(gradient, scratch.weights) for gradient in dys]
        if affine is not None:
            pairs = zip(dxs, positions)
            dxs, *terms = zip(*(normalize_block_gradients(dx, x[at], affine, activation) for dx, at in pairs))
            daffine[0] += sum(terms[0])
            daffine[1] += sum(terms[1])
        for at, gradient in zip(positions, dxs):
            dx[at] = gradient.astype(dx.dtype)
        for i in range(dweights.shape[0]):
            dweights[i] += sum(x[i : i + 1] * gradient for x, gradient in zip(xs, dys))

    _for_positions(x.shape, some_positions)


def _for_positions(shape, do):
    """Calls `do` with a few positions (row, column) of a block at a time, one after another."""
    at_once = math.gcd(shape[1], AT_ONCE)
    steps = jnp.int32(shape[1] // at_once)

    @pl.loop(0, shape[0] * (shape[1] // at_once))
    def _(number):
        row, column = lax.div(number, steps), lax.rem(number, steps) * at_once  # // would mind the sign
        do([(row, column + i) for i in range(at_once)])


def _call(kernel, name, inputs, outputs, scratch, flops, plan: PointwisePlan, activation):
    """Runs a kernel over blocks of images and of rows; an array of three axes has no rows."""
    rows, _, _, images = inputs[0].shape

    def spec(array):
        if array.ndim == 4:
            return pl.BlockSpec((plan.rows, *array.shape[1:3], plan.images), lambda n, r: (r, 0, 0, n))
        return pl.BlockSpec((*array.shape[:2], plan.images), lambda n, r: (0, 0, n))

    return call(
        kernel,
        name,
        inputs,
        outputs,
        scratch,
        grid=(images // plan.images, rows // plan.rows),
        in_specs=jax.tree.map(spec, inputs),
        out_specs=jax.tree.map(spec, outputs),
        activation=activation,
        flops=flops,
        interpret=plan.interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def pointwise(
    x: jax.Array,
    weights: jax.Array,
    affine: jax.Array | None,
    activation: str | None,
    with_sums: bool,
    plan: PointwisePlan,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the convolution of activation(x * multiplier + offset), in x's dtype, and its sums and those of squares.

    x: [height, width, C_in, images]; weights: [C_in, C_out, images]; affine: [2, C_in, images] or None.
    The results are [height, width, C_out, images], and [2, C_out, images] or, not `with_sums`, None.
    """
    y = like(x, (*x.shape[:2], *weights.shape[1:]))
    sums = like(x, (2, *weights.shape[1:]), jnp.float32) if with_sums else None
    scratch, flops = plan.scratch(x, weights), 2 * math.prod(x.shape[:2]) * weights.size
    inputs, outputs = (x, weights, affine), (y, sums)
    return _call(_forward_kernel, "pointwise_conv", inputs, outputs, scratch, flops, plan, activation)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (dy, dsums) = saved, gradients
    inputs = (x, dy, y, affine, dsums, weights.transpose(1, 0, 2))
    outputs = (like(x, x.shape), like(x, weights.shape, jnp.float32), gradient_like(x, affine))
    scratch, flops = plan.gradient_scratch(x, weights), 4 * math.prod(x.shape[:2]) * weights.size
    name = "pointwise_conv_gradients"
    dx, dweights, daffine = _call(_backward_kernel, name, inputs, outputs, scratch, flops, plan, activation)
    return dx, dweights.astype(weights.dtype), daffine


pointwise.defvjp(forward_rule(pointwise), _backward)
