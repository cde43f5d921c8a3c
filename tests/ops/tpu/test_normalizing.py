"""Kernels that normalise what they read and sum what they write: interpreted, against the plain forms and numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.maps import to_array
from dynet_jax.ops.tpu.dense_plan import make_dense_plan
from dynet_jax.ops.tpu.dynamic import dense_dynamic_conv, grouped_dynamic_conv, pointwise_dynamic_conv
from dynet_jax.ops.tpu.feature_map import DeferredMap
from dynet_jax.ops.tpu.grouped_plan import make_grouped_plan
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan
from dynet_jax.ops.window import make_window
from tests import reference
from tests.ops.tpu.compiled import bytes_of, needs_libtpu


def grouped(shape, strides=1, members=3, **changes):
    channels = shape[-1]
    window = make_window(shape, (3, 3), strides, "SAME", 1)
    x, bank = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (4, 3, 3, members, channels)))
    plan = make_grouped_plan(x, bank, channels // members, window, interpret=True)._replace(**changes)
    options = {"strides": strides, "feature_group_count": channels // members}
    return grouped_dynamic_conv, plan, shape, bank.shape, options


def pointwise(shape, c_out, **plan):
    return pointwise_dynamic_conv, PointwisePlan(**plan, interpret=True), shape, (4, 1, 1, shape[-1], c_out), {}


def dense(shape, c_out, strides=1, **changes):
    x, bank_shape = jax.ShapeDtypeStruct(shape, jnp.float32), (4, 3, 3, shape[-1], c_out)
    window = make_window(shape, (3, 3), strides, "SAME", 1)
    plan = make_dense_plan(x, jax.ShapeDtypeStruct(bank_shape, jnp.float32), 1, window, interpret=True)
    return dense_dynamic_conv, plan._replace(**changes), shape, bank_shape, {"strides": strides}


LAYERS = {
    "grouped": lambda: grouped((2, 4, 4, 6)),
    "grouped, stride 2": lambda: grouped((2, 6, 4, 6), strides=2),
    "grouped, blocks of rows": lambda: grouped((2, 6, 4, 6), rows=2),
    "grouped, blocks of rows, stride 2": lambda: grouped((2, 8, 4, 6), strides=2, rows=2),
    "grouped, blocks of images": lambda: grouped((4, 3, 3, 6), images=2),
    "grouped, images in the lanes": lambda: grouped((4, 4, 3, 6), channel_axis=0, images=2, rows=2),
    "grouped, strips": lambda: grouped((3, 8, 3, 6), channel_axis=0, images=6, rows=2, strips=2),
    "grouped, strips, stride 2": lambda: grouped((3, 8, 4, 6), 2, channel_axis=0, images=6, rows=2, strips=2),
    "depthwise": lambda: grouped((2, 4, 4, 5), members=1),
    "pointwise": lambda: pointwise((4, 4, 3, 5), 7, rows=2, images=2),
    "pointwise, strips": lambda: pointwise((3, 4, 3, 5), 7, rows=1, images=6, strips=2),
    "dense": lambda: dense((2, 4, 5, 6), 10),
    "dense, stride 2": lambda: dense((2, 6, 4, 6), 8, strides=2),
    "dense, columns side by side": lambda: dense((2, 4, 8, 32), 64, rows=2),
    "dense, several tiles of channels": lambda: dense((2, 2, 3, 256), 8),
}


def operands(shape, bank_shape, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    per_image = shape[0], shape[-1]
    x, multiplier, offset, bank, coefficients = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in (shape, per_image, per_image, bank_shape, (shape[0], bank_shape[0], bank_shape[-1]))
    )
    # Outside the image a convolution sees zeros, which are not what an offset makes of zeros.
    return DeferredMap(x.astype(dtype), multiplier, offset + 1), bank.astype(dtype), coefficients.astype(dtype)


def assert_close(actual, expected):
    """To 1e-4 of each array's largest number: gradients here are sums of thousands, and some nearly vanish."""
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert jnp.abs(ours - theirs).max() < 1e-4 * jnp.abs(theirs).max()


KERNELS = ("grouped", "pointwise", "dense")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "relu6") for name in LAYERS), *((name, other) for name in KERNELS for other in (None, "relu"))],
)
def test_values_sums_and_gradients(name, activation):
    form, plan, shape, bank_shape, options = LAYERS[name]()
    x, bank, coefficients = operands(shape, bank_shape)
    x = DeferredMap(x.x * 3, x.multiplier, x.offset, activation).in_strips(getattr(plan, "strips", 1))
    y, sums = form(x, bank, coefficients, plan, with_sums=True)
    expected = reference.dynamic_conv(to_array(x), bank, coefficients, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sums, [expected.sum((1, 2)), (expected**2).sum((1, 2))], rtol=1e-3, atol=1e-2)

    def plain(x, bank, coefficients):
        y = dynamic_conv(to_array(x), bank, coefficients, fusion="kernel", **options)
        return y, jnp.stack([y.sum((1, 2)), (y**2).sum((1, 2))])

    def gradients(form):
        weights = [jnp.asarray(np.random.default_rng(1).normal(size=part.shape), jnp.float32) for part in (y, sums)]

        def loss(*arrays):
            return sum(jnp.sum(part * weight) for part, weight in zip(form(*arrays), weights))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, bank, coefficients)

    actual = gradients(lambda *a: form(*a, plan, with_sums=True))
    assert_close(actual, gradients(plain))


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_either_without_the_other(name):
    form, plan, shape, bank_shape, options = LAYERS[name]()
    x, bank, coefficients = operands(shape, bank_shape)

    def gradients(conv, x):
        def loss(x, bank):
            return sum(jnp.sum(part * jnp.linspace(-1, 1, part.size).reshape(part.shape)) for part in conv(x, bank))

        return jax.grad(loss, argnums=(0, 1))(x, bank)

    def plain(x, bank):
        return (dynamic_conv(to_array(x), bank, coefficients, fusion="kernel", **options),)

    def summed(x, bank):
        (y,) = plain(x, bank)
        return y, jnp.stack([y.sum((1, 2)), (y**2).sum((1, 2))])

    normalised_only = gradients(lambda *a: (form(*a, coefficients, plan),), x)
    assert_close(normalised_only, gradients(plain, x))

    sums_only = gradients(lambda *a: form(*a, coefficients, plan, with_sums=True), x.x)
    assert_close(sums_only, gradients(summed, x.x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "pointwise"])
def test_what_is_normalised_is_not_rounded(name):
    """200.5 - 200, where bfloat16 would have 0 or 1. (Dense kernels round, for the matrix unit.)"""
    form, plan, shape, bank_shape, _ = LAYERS[name]()
    x, per_image = jnp.ones(shape, jnp.bfloat16), (shape[0], shape[-1])
    x = DeferredMap(x, jnp.full(per_image, 200.5), jnp.full(per_image, -200.0))
    bank = jnp.zeros(bank_shape, jnp.bfloat16).at[0, bank_shape[1] // 2, bank_shape[2] // 2].set(1)
    y = form(x, bank, jnp.ones((shape[0], bank_shape[0], bank_shape[-1]), jnp.bfloat16), plan)
    np.testing.assert_array_equal(y.astype(jnp.float32), bank_shape[-2] / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_half_precision(name):
    """Results and gradients have x's dtype, and sums are in float32."""
    form, plan, shape, bank_shape, options = LAYERS[name]()
    x, bank, coefficients = operands(shape, bank_shape, jnp.bfloat16)
    y, sums = form(x, bank, coefficients, plan, with_sums=True)
    wide = DeferredMap(x.x.astype(jnp.float32), x.multiplier, x.offset)
    exact = reference.dynamic_conv(to_array(wide), *(a.astype(jnp.float32) for a in (bank, coefficients)), **options)
    assert (y.dtype, sums.dtype) == (jnp.bfloat16, jnp.float32)
    assert np.abs(y.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()
    np.testing.assert_allclose(sums[0], y.astype(jnp.float32).sum((1, 2)), rtol=1e-4, atol=1e-3)
    gradient = jax.grad(lambda x: form(x, bank, coefficients, plan, with_sums=True)[1].sum())(x)
    assert (gradient.x.dtype, gradient.offset.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    ("shape", "bank_shape", "options", "name"),
    [
        ((64, 4, 4, 12), (4, 3, 3, 6, 12), {"feature_group_count": 2}, "grouped_conv"),
        ((64, 4, 4, 12), (4, 1, 1, 12, 6), {}, "pointwise_conv"),
        ((2, 4, 4, 12), (4, 3, 3, 12, 6), {}, "dense_conv"),
    ],
)
def test_on_tpus_the_map_itself_is_never_made(shape, bank_shape, options, name):
    """Kernels take x as it is, and are reported by what they do to it: their time differs."""
    x, bank, coefficients = operands(shape, bank_shape)
    x = DeferredMap(x.x, x.multiplier, x.offset, "relu6")

    def loss(x):
        y = dynamic_conv(x, bank, coefficients, **options)
        return jnp.sum(y.x) + jnp.sum(y.sums)

    with tracing_for("tpu", "TPU v5 lite"), traced_kernels() as kernels:
        program = str(jax.make_jaxpr(jax.grad(loss))(x))
    assert [kernel.name for kernel in kernels] == [f"{name}_relu6", f"{name}_gradients_relu6"]
    assert "relu" not in program.replace(f"{name}_relu6", "").replace(f"{name}_gradients_relu6", "")


@needs_libtpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("layer", "size"), [((112, 18, 6, 18, 1, 128), 3), ((56, 24, 24, 36, 1, 64), 1), ((28, 64, 64, 64, 1, 64), 3)]
)
def test_they_compile_for_tpus(layer, size, dtype):
    assert min(bytes_of(layer, "v5p:2x2x1", (size, size), dtype, normalizing=True)) > 0
