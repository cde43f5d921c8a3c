"""The GPU's kernels, interpreted: values against the numpy loop, gradients against those that JAX derives of XLA's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.gpu.dynamic import by_kernel
from dynet_jax.ops.gpu.feature_map import DeferredMap
from dynet_jax.ops.gpu.plans import make_plan
from dynet_jax.ops.maps import to_array
from dynet_jax.ops.strips import channel_sums
from dynet_jax.ops.window import make_window
from tests import reference

# name: (shape of x, C_out, kernel size, groups, geometry)
CASES = {
    "grouped": ((2, 5, 6, 36), 36, (3, 3), 6, {}),  # two tiles of channels
    "grouped_many_positions": ((1, 17, 18, 6), 6, (3, 3), 1, {}),  # two rounds of blocks
    "grouped_stride": ((2, 9, 7, 12), 12, (3, 3), 2, {"strides": 2}),
    "grouped_stride_torch": ((2, 6, 8, 4), 4, (3, 3), 2, {"strides": 2, "padding": "TORCH"}),
    "grouped_dilation": ((2, 7, 6, 6), 6, (3, 3), 2, {"kernel_dilation": 2}),
    "grouped_row_window": ((2, 4, 5, 8), 8, (1, 3), 2, {"padding": "VALID"}),
    "dense": ((5, 6, 5, 18), 36, (3, 3), 1, {}),  # two blocks of images, the second of them not full
    "dense_stride": ((2, 9, 8, 20), 18, (3, 3), 1, {"strides": 2}),
    "dense_stride_torch": ((3, 8, 7, 70), 17, (3, 3), 1, {"strides": 2, "padding": "TORCH"}),  # two tiles of inputs
    "dense_dilation": ((2, 7, 6, 17), 70, (3, 3), 1, {"kernel_dilation": 2}),
    "dense_large_map": ((2, 17, 18, 20), 24, (3, 3), 1, {}),  # kernels are fused by XLA
    "dense_large_stride": ((2, 33, 10, 24), 17, (3, 3), 1, {"strides": 2}),  # and here for the gradient of x alone
    "dense_window": ((2, 5, 6, 3), 4, (2, 5), 1, {"padding": ((0, 1), (3, 0)), "strides": (1, 2)}),
    "pointwise": ((2, 9, 8, 18), 70, (1, 1), 1, {}),  # two tiles of positions and of channels out
    "pointwise_many_inputs": ((2, 3, 3, 70), 18, (1, 1), 1, {}),
}


def arrays(name, shared=False, dtype=jnp.float32, group_size=4):
    """Random x, kernels, coefficients, and the options of `dynamic_conv`."""
    shape, c_out, kernel_size, groups, geometry = CASES[name]
    rng = np.random.default_rng(0)
    shapes = (
        shape,
        (group_size, *kernel_size, shape[-1] // groups, c_out),
        (shape[0], group_size, 1 if shared else c_out),
    )
    options = {"feature_group_count": groups} | geometry
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes], options


def plan_of(x, kernels, feature_group_count=1, **geometry):
    geometry = {"strides": 1, "padding": "SAME", "kernel_dilation": 1, **geometry}
    window = make_window(x.shape, kernels.shape[1:-2], *geometry.values())
    return make_plan(x, kernels, feature_group_count, window, interpret=True)


def by_interpreter(x, kernels, coefficients, options):
    return by_kernel(x, kernels, coefficients, plan_of(x, kernels, **options), with_sums=False)[0]


def gradients(form, operands, weights):
    def loss(*operands):
        parts = jax.tree.leaves(form(*operands))
        return sum(jnp.sum(part * weight) for part, weight in zip(parts, weights, strict=True))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(operands)))))(*operands)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    check_values_and_gradients(*arrays(name, shared=name in ("pointwise", "dense_stride")))


@pytest.mark.slow
def test_the_gradient_of_a_bank_of_many_kernels():
    """Its tiles have fewer channels, of which a block of threads can keep the gradients of all kernels."""
    check_values_and_gradients(*arrays("dense", group_size=24))


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 12])
def test_the_gradient_of_a_bank_adds_up_images(blocks, monkeypatch):
    """In one part, and in two of which the second has fewer; a part is a block of threads for every tap."""
    monkeypatch.setattr("dynet_jax.ops.gpu.plans.CARD_BLOCKS", blocks)
    operands, options = arrays("dense")
    plan = plan_of(*operands[:2], **options)
    assert plan.image_parts(batch=5, tiles=9) == -(-blocks // 9)
    check_values_and_gradients(operands, options)


def check_values_and_gradients(operands, options):
    y = jax.jit(functools.partial(by_interpreter, options=options))(*operands)
    expected = reference.dynamic_conv(*operands, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    weights = [jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)]
    actual = gradients(functools.partial(by_interpreter, options=options), operands, weights)
    plain = gradients(functools.partial(dynamic_conv, fusion="kernel", **options), operands, weights)
    chex.assert_trees_all_close(actual, plain, rtol=1e-4, atol=1e-4)


def normalised_layer(name, activation, rng, dtype=jnp.float32):
    """Returns a layer that normalises what it reads and sums what it writes: by kernels, plainly, and its operands."""
    (x, kernels, coefficients), options = arrays(name, dtype=dtype)
    affine = [jnp.asarray(rng.normal(size=(x.shape[0], x.shape[-1])), jnp.float32) for _ in range(2)]

    def by_kernels(x, multiplier, offset, *others):
        x = DeferredMap(x, multiplier, offset, activation)
        return by_kernel(x, *others, plan_of(x, kernels, **options), with_sums=True)

    def plainly(x, multiplier, offset, *others):
        y = dynamic_conv(to_array(DeferredMap(x, multiplier, offset, activation)), *others, fusion="kernel", **options)
        return y, channel_sums(y)

    return by_kernels, plainly, [x, *affine, kernels, coefficients]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu6", None])
@pytest.mark.parametrize("name", ["grouped_stride", "pointwise", "dense", "dense_large_stride"])
def test_maps_are_normalised_and_summed(name, activation):
    """Padding is added to a map that has been normalised; sums have gradients, too."""
    rng = np.random.default_rng(2)
    by_kernels, plainly, operands = normalised_layer(name, activation, rng)
    actual, expected = jax.jit(by_kernels)(*operands), plainly(*operands)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-3)
    weights = [jnp.asarray(rng.normal(size=part.shape), jnp.float32) for part in expected]
    chex.assert_trees_all_close(
        gradients(by_kernels, operands, weights), gradients(plainly, operands, weights), rtol=1e-3, atol=1e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "pointwise", "dense"])
def test_half_precision_is_summed_in_float32(name):
    operands, options = arrays(name, dtype=jnp.bfloat16)
    y = by_interpreter(*operands, options)
    assert y.dtype == jnp.bfloat16
    exact = reference.dynamic_conv(*(array.astype(jnp.float32) for array in operands), **options)
    assert np.abs(y.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "pointwise", "dense", "dense_large_map"])
def test_gradients_in_half_precision_are_those_of_float32_but_for_rounding(name):
    """Those of the normalisation too, and those that come through the sums."""
    rng = np.random.default_rng(3)
    by_kernels, plainly, operands = normalised_layer(name, None, rng, jnp.bfloat16)
    shapes = jax.eval_shape(by_kernels, *operands)
    weights = [jnp.asarray(rng.normal(size=part.shape), jnp.float32) for part in jax.tree.leaves(shapes)]
    actual = gradients(by_kernels, operands, weights)
    expected = gradients(plainly, [operand.astype(jnp.float32) for operand in operands], weights)
    for ours, exact, operand in zip(actual, expected, operands, strict=True):
        assert ours.dtype == operand.dtype
        assert np.abs(ours.astype(jnp.float32) - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "c_out", "groups", "geometry"),
    [
        ((2, 8, 12), (3,), 12, 2, {}),  # 1-D
        ((2, 8, 8, 12), (1, 1), 12, 1, {"strides": 2}),
        ((2, 8, 8, 12), (3, 3), 12, 12, {}),  # depthwise
        ((2, 8, 8, 12), (3, 3), 24, 2, {}),  # as many channels out as in
        ((2, 8, 8, 128), (3, 3), 128, 2, {}),  # too many channels in a group
        ((2, 8, 8, 12), (5, 5), 12, 2, {}),  # too many taps
        ((2, 8, 8, 12), (3, 3), 12, 2, {"padding": ((-1, 1), (0, 0))}),
        ((2, 8, 8, 24), (3, 3), 48, 1, {"padding": ((-1, 1), (0, 0))}),
        ((2**11, 112, 112, 96), (1, 1), 12, 1, {}),  # addresses beyond int32
        ((2**11, 112, 112, 96), (3, 3), 12, 1, {}),
    ],
)
def test_other_layers_are_left_to_the_plain_forms(shape, kernel_shape, c_out, groups, geometry):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    kernels = jax.ShapeDtypeStruct((6, *kernel_shape, shape[-1] // groups, c_out), jnp.bfloat16)
    assert plan_of(x, kernels, groups, **geometry) is None


def test_banks_of_too_many_kernels_are_left_to_the_plain_forms():
    """The gradients of all kernels of a tile would not fit the registers."""
    x = jax.ShapeDtypeStruct((2, 8, 8, 64), jnp.bfloat16)
    assert plan_of(x, jax.ShapeDtypeStruct((24, 3, 3, 64, 64), jnp.bfloat16)) is not None
    assert plan_of(x, jax.ShapeDtypeStruct((25, 3, 3, 64, 64), jnp.bfloat16)) is None


def test_other_types_are_left_to_the_plain_forms():
    kernels = jax.ShapeDtypeStruct((6, 1, 1, 12, 12), jnp.float16)
    assert plan_of(jax.ShapeDtypeStruct((2, 8, 8, 12), jnp.float16), kernels) is None


@pytest.mark.parametrize("name", ["grouped", "dense"])
def test_dynamic_conv_takes_them_where_they_are_asked_for(name, monkeypatch):
    operands, options = arrays(name)
    kernel = f"{name}_conv"

    def program(backend="gpu", **more):
        with tracing_for(backend):
            return str(jax.make_jaxpr(lambda *a: dynamic_conv(*a, **options, **more))(*operands))

    assert kernel not in program()
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    assert kernel in program()
    assert kernel in program(fusion="kernel")
    assert kernel not in program(fusion="feature")
    assert kernel not in program(precision="highest")
    assert kernel not in program(padding="CIRCULAR")
    assert kernel not in program(backend="cpu")
    with jax.default_matmul_precision("highest"):
        assert kernel not in program()
    monkeypatch.setenv("DYNET_JAX_PALLAS", "0")
    assert kernel not in program()


@pytest.mark.parametrize("name", ["grouped", "pointwise", "dense"])
def test_gradients_where_only_some_operands_differ_between_devices(name, monkeypatch):
    """Traced only: interpreted kernels cannot tell over which devices values vary."""
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    (x, kernels, _), options = arrays(name)
    x = jnp.ones((16, *x.shape[1:]))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

    def gradient(x, kernels):
        constant = jnp.ones((2, 4, kernels.shape[-1]))
        return jax.grad(lambda k: jnp.sum(dynamic_conv(x, k, constant, **options)))(kernels)

    spread = jax.shard_map(gradient, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P())
    with tracing_for("gpu"):
        program = str(jax.make_jaxpr(spread)(x, kernels))
    assert "gradients" in program
    assert "psum" in program
