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
from dynet_jax.ops.pallas.plan import PointwisePlan, padded_bytes

AT_ONCE = 4  # positions whose products are summed before they are added to a gradient in memory


def _product(x, weights):
    """x [in, images], weights [in, out, images] -> [out, images]: a sum over the channels in."""
    return sum(x[i : i + 1] * weights[i] for i in range(weights.shape[0]))


def _forward_kernel(x, weights, y, weights32):
    weights32[...] = weights[...].astype(jnp.float32)

    def one_position(places):
        (place,) = places
        y[place] = _product(x[place].astype(jnp.float32), weights32).astype(y.dtype)

    _for_places(x.shape, 1, one_position)


def _backward_kernel(x, gradient, weights, dx, dweights, transposed32):
    # weights: [out, in, images] here
    transposed32[...] = weights[...].astype(jnp.float32)

    @pl.when(pl.program_id(1) == 0)
    def _():
        dweights[...] = jnp.zeros_like(dweights)

    def some_positions(places):
        xs, gradients = ([array[place].astype(jnp.float32) for place in places] for array in (x, gradient))
        for place, g in zip(places, gradients):
            dx[place] = _product(g, transposed32).astype(dx.dtype)
        for i in range(dweights.shape[0]):
            dweights[i] += sum(x[i : i + 1] * g for x, g in zip(xs, gradients))

    _for_places(x.shape, math.gcd(x.shape[1], AT_ONCE), some_positions)


def _for_places(shape, at_once, do):
    """`do` with `at_once` places (row, column) of a block at a time, one after another."""
    steps = jnp.int32(shape[1] // at_once)

    @pl.loop(0, shape[0] * (shape[1] // at_once))
    def _(number):
        row, column = lax.div(number, steps), lax.rem(number, steps) * at_once  # // would mind the sign
        do([(row, column + i) for i in range(at_once)])


def _call(kernel, name, plan: PointwisePlan, arrays, outputs, products: int):
    """Run a kernel over blocks of images and of rows; arrays of weights have no rows.

    `products`: that are as large as the forward pass's.
    """
    rows, width, _, images = arrays[0].shape
    grid = (images // plan.images, rows // plan.rows)

    def spec(shape):
        if len(shape) == 4:
            return pl.BlockSpec((plan.rows, *shape[1:3], plan.images), lambda n, r: (r, 0, 0, n))
        return pl.BlockSpec((*shape[:2], plan.images), lambda n, r: (0, 0, n))

    return call(
        kernel,
        name,
        arrays,
        outputs,
        grid=grid,
        in_specs=[spec(array.shape) for array in arrays],
        out_specs=[spec(output.shape) for output in outputs],
        scratch_shapes=[jax.ShapeDtypeStruct((*arrays[-1].shape[:2], plan.images), jnp.float32)],  # of the weights
        flops=2 * products * rows * width * math.prod(arrays[-1].shape),
        bytes_accessed=sum(padded_bytes(array.shape, array.dtype) for array in (*arrays, *outputs)),
        interpret=plan.interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pointwise(x: jax.Array, weights: jax.Array, plan: PointwisePlan) -> jax.Array:
    """[height, width, C_in, images] and [C_in, C_out, images] -> [height, width, C_out, images], in x's dtype."""
    height, width, _, images = x.shape
    outputs = [like(x, (height, width, weights.shape[1], images))]
    return _call(_forward_kernel, "pointwise_conv", plan, (x, weights), outputs, products=1)[0]


def _forward(x, weights, plan):
    return pointwise(x, weights, plan), (x, weights)


def _backward(plan, saved, gradient):
    x, weights = saved
    arrays = (x, gradient, weights.transpose(1, 0, 2))
    outputs = [like(x, x.shape), like(x, weights.shape, jnp.float32)]
    dx, dweights = _call(_backward_kernel, "pointwise_conv_gradients", plan, arrays, outputs, products=2)
    return dx, dweights.astype(weights.dtype)


pointwise.defvjp(_forward, _backward)
