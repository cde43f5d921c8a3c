"""The 1x1 convolution with one kernel per image, for TPUs and few channels: images fill the lanes.

A batched matrix product has images as its slowest axis and at most 40 of the matrix unit's 128 columns to fill, and
the layers around it have to change between that layout and one whose vectors are full. Here a vector holds one channel
of 128 images, and every product of a channel in and a channel out is a multiply-add of whole vectors.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dynet_jax.ops.pallas.call import call, like
from dynet_jax.ops.pallas.normalizing import clear_with_first_rows, gradient_like, read, summed, unread
from dynet_jax.ops.pallas.plan import PointwisePlan

AT_ONCE = 4  # positions that are summed before they are added to a sum over all of them in memory


def _product(x, weights):
    """x [in, images], weights [in, out, images] -> [out, images]: a sum over the channels in."""
    return sum(x[i : i + 1] * weights[i] for i in range(weights.shape[0]))


def _forward_kernel(x, weights, affine, y, sums, weights32, *, activation):
    weights32[...] = weights[...].astype(jnp.float32)
    clear_with_first_rows(sums)

    def some_positions(places):
        values = [_product(read(x[place], affine, activation), weights32).astype(y.dtype) for place in places]
        for place, value in zip(places, values):
            y[place] = value
        if sums is not None:
            values = [value.astype(jnp.float32) for value in values]  # as whoever reads them will see them
            sums[0] += sum(values)
            sums[1] += sum(value * value for value in values)

    _for_places(x.shape, math.gcd(x.shape[1], AT_ONCE), some_positions)


def _backward_kernel(x, g, y, affine, dsums, weights, dx, dweights, daffine, transposed32, *, activation):
    # weights: [out, in, images] here
    transposed32[...] = weights[...].astype(jnp.float32)
    clear_with_first_rows(dweights, daffine)

    def some_positions(places):
        xs = [read(x[place], affine, activation) for place in places]
        gradients = [summed(g[place], None if y is None else y[place], dsums) for place in places]
        before = [_product(gradient, transposed32) for gradient in gradients]
        if affine is not None:
            before, *terms = zip(*(unread(own, x[place], affine, activation) for own, place in zip(before, places)))
            daffine[0] += sum(terms[0])
            daffine[1] += sum(terms[1])
        for place, own in zip(places, before):
            dx[place] = own.astype(dx.dtype)
        for i in range(dweights.shape[0]):
            dweights[i] += sum(x[i : i + 1] * gradient for x, gradient in zip(xs, gradients))

    _for_places(x.shape, math.gcd(x.shape[1], AT_ONCE), some_positions)


def _for_places(shape, at_once, do):
    """`do` with `at_once` places (row, column) of a block at a time, one after another."""
    steps = jnp.int32(shape[1] // at_once)

    @pl.loop(0, shape[0] * (shape[1] // at_once))
    def _(number):
        row, column = lax.div(number, steps), lax.rem(number, steps) * at_once  # // would mind the sign
        do([(row, column + i) for i in range(at_once)])


def _call(kernel, name, plan: PointwisePlan, arrays, outputs, weights, products: int, activation):
    """Run a kernel over blocks of images and of rows; what has three axes has no rows.

    `weights`: as the kernel takes them; `products`: that are as large as the forward pass's.
    """
    rows, width, _, images = arrays[0].shape
    grid = (images // plan.images, rows // plan.rows)

    def spec(array):
        if array is None:
            return None
        if array.ndim == 4:
            return pl.BlockSpec((plan.rows, *array.shape[1:3], plan.images), lambda n, r: (r, 0, 0, n))
        return pl.BlockSpec((*array.shape[:2], plan.images), lambda n, r: (0, 0, n))

    return call(
        kernel,
        name,
        arrays,
        outputs,
        grid=grid,
        in_specs=[spec(array) for array in arrays],
        out_specs=[spec(output) for output in outputs],
        scratch_shapes=[jax.ShapeDtypeStruct((*weights.shape[:2], plan.images), jnp.float32)],
        activation=activation,
        flops=2 * products * rows * width * math.prod(weights.shape),
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
    """The convolution of activation(x * multiplier + offset), in x's dtype, and the sums of it and of its squares.

    x: [height, width, C_in, images]; weights: [C_in, C_out, images]; affine: [2, C_in, images] or None.
    Returns [height, width, C_out, images], and [2, C_out, images] or, not `with_sums`, None.
    """
    y = like(x, (*x.shape[:2], *weights.shape[1:]))
    sums = like(x, (2, *weights.shape[1:]), jnp.float32) if with_sums else None
    arrays = (x, weights, affine)
    y, sums = _call(_forward_kernel, "pointwise_conv", plan, arrays, [y, sums], weights, 1, activation)
    return y, sums


def _forward(x, weights, affine, activation, with_sums, plan):
    y, sums = pointwise(x, weights, affine, activation, with_sums, plan)
    return (y, sums), (x, weights, affine, y if with_sums else None)


def _backward(activation, with_sums, plan, saved, gradients):
    (x, weights, affine, y), (gradient, dsums) = saved, gradients
    transposed = weights.transpose(1, 0, 2)
    arrays = (x, gradient, y, affine, dsums, transposed)
    outputs = [like(x, x.shape), like(x, weights.shape, jnp.float32), gradient_like(x, affine)]
    name = "pointwise_conv_gradients"
    dx, dweights, daffine = _call(_backward_kernel, name, plan, arrays, outputs, transposed, 2, activation)
    return dx, dweights.astype(weights.dtype), daffine


pointwise.defvjp(_forward, _backward)
