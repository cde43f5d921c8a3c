"""The TPU's kernels in bfloat16, interpreted, against the plain form in float32 on the same rounded numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.tpu.dense_plan import make_dense_plan
from dynet_jax.ops.tpu.dynamic import dense_dynamic_conv, grouped_dynamic_conv, pointwise_dynamic_conv
from dynet_jax.ops.tpu.grouped_plan import make_grouped_plan
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan
from dynet_jax.ops.window import make_window

NAMES = ("x", "kernels", "coefficients")


def dense(strides, x, kernels, _):
    window = make_window(x.shape, (3, 3), strides, "SAME", 1)
    plan = make_dense_plan(x, kernels, 1, window, interpret=True)
    return functools.partial(dense_dynamic_conv, plan=plan)


def grouped(strides, x, kernels, groups, channel_axis=1, strips=1):
    window = make_window(x.shape, (3, 3), strides, "SAME", 1)
    plan = make_grouped_plan(x, kernels, groups, window, interpret=True)
    rows, images = x.shape[1] // strides // strips, x.shape[0] * strips
    plan = plan._replace(channel_axis=channel_axis, images=images, rows=rows, strips=strips)
    return functools.partial(grouped_dynamic_conv, plan=plan)


images_in_the_lanes = functools.partial(grouped, channel_axis=0)
strips_in_the_lanes = functools.partial(grouped, channel_axis=0, strips=16)


def pointwise(_, x, kernels, groups, strips=1):
    plan = PointwisePlan(x.shape[1] // strips, strips * x.shape[0], strips, interpret=True)
    return functools.partial(pointwise_dynamic_conv, plan=plan)


# name: (what makes the form, shape of x, kernel size, C_out, groups, strides)
CASES = {
    "dense": (dense, (4, 16, 16, 12), 3, 16, 1, 1),
    "dense, stride 2": (dense, (4, 16, 16, 12), 3, 16, 1, 2),
    "grouped": (grouped, (4, 16, 16, 12), 3, 12, 2, 1),
    "grouped, stride 2": (grouped, (4, 16, 16, 12), 3, 12, 2, 2),
    "grouped, images in the lanes": (images_in_the_lanes, (4, 16, 16, 12), 3, 12, 2, 1),
    "grouped, strips in the lanes": (strips_in_the_lanes, (4, 16, 16, 12), 3, 12, 2, 1),
    "pointwise": (pointwise, (4, 16, 16, 12), 1, 16, 1, 1),
    "pointwise, strips": (functools.partial(pointwise, strips=16), (4, 16, 16, 12), 1, 16, 1, 1),
}


def gradients(form, operands, cotangent):
    return jax.jit(lambda *arrays: jax.vjp(form, *arrays)[1](cotangent))(*operands)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    """Off by roundings of single numbers, to 8 bits; sums of a thousand products in bfloat16 would be off by more."""
    make, shape, size, c_out, groups, strides = CASES[name]
    rng = np.random.default_rng(0)
    shapes = shape, (4, size, size, shape[-1] // groups, c_out), (shape[0], 4, c_out)
    low = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    exact = [array.astype(jnp.float32) for array in low]
    plain = functools.partial(dynamic_conv, fusion="kernel", strides=strides, feature_group_count=groups)
    y = jax.eval_shape(plain, *exact)
    cotangent = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16)
    expected = gradients(plain, exact, cotangent.astype(jnp.float32))
    for operand, actual, wanted in zip(NAMES, gradients(make(strides, *low[:2], groups), low, cotangent), expected):
        assert actual.dtype == jnp.bfloat16
        error = jnp.linalg.norm(actual.astype(jnp.float32) - wanted) / jnp.linalg.norm(wanted)
        assert error < 0.005, operand
