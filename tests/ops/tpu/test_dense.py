"""The TPU's kernel for convolutions over all channels: interpreted, against the numpy loop and the plain forms."""

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
from dynet_jax.ops.tpu.dense_plan import DENSE_BYTES, make_dense_plan
from dynet_jax.ops.tpu.dynamic import dense_dynamic_conv
from dynet_jax.ops.window import make_window
from tests import reference
from tests.ops.tpu.compiled import moved, needs_libtpu


def arrays(shape, c_out, kernel_size=(3, 3), group_size=4, shared=False, dtype=jnp.float32):
    """Random x, kernels, coefficients."""
    rng = np.random.default_rng(0)
    shapes = shape, (group_size, *kernel_size, shape[-1], c_out), (shape[0], group_size, 1 if shared else c_out)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def plan_of(x, kernels, changes=None, **geometry):
    geometry = {"strides": 1, "padding": "SAME", "kernel_dilation": 1, **geometry}
    window = make_window(x.shape, kernels.shape[1:-2], *geometry.values())
    plan = make_dense_plan(x, kernels, 1, window, interpret=True)
    return plan and plan._replace(**(changes or {}))


# name: (arguments of `arrays`, arguments of `plan_of`)
CASES = {
    "plain": (((2, 4, 5, 6), 7), {}),
    "stride": (((2, 6, 4, 3), 5), {"strides": 2}),
    "stride_torch": (((2, 6, 4, 3), 5), {"strides": 2, "padding": "TORCH"}),
    "odd_map_stride": (((2, 5, 7, 3), 5), {"strides": 2}),
    "strides_differ": (((2, 5, 8, 3), 5), {"strides": (1, 2)}),
    "dilation": (((2, 7, 6, 3), 5), {"kernel_dilation": 2}),
    "dilation_differs": (((2, 7, 6, 3), 5), {"kernel_dilation": (1, 3), "padding": 3}),
    "no_padding": (((2, 6, 5, 3), 5), {"padding": "VALID"}),
    "much_padding": (((2, 3, 3, 3), 5), {"padding": ((2, 1), (0, 3))}),
    "row_window": (((2, 4, 4, 6), 3, (1, 3)), {}),
    "column_window": (((2, 4, 4, 6), 3, (3, 1)), {}),
    "large_even_window": (((1, 6, 6, 2), 3, (4, 4)), {}),
    "blocks_of_rows": (((2, 6, 3, 4), 6), {"changes": {"rows": 2}}),
    "blocks_of_rows_stride": (((2, 8, 4, 4), 6), {"strides": 2, "changes": {"rows": 1}}),
    "blocks_of_images": (((6, 3, 3, 4), 6), {"changes": {"images": 2}}),
    "chunks": (((2, 3, 3, 16), 6), {"changes": {"chunk": 16}}),
    "tiles_of_channels": (((1, 3, 4, 256), 4), {"strides": 2}),
    "folded_columns": (((1, 3, 4, 32), 64), {}),
    "folded_columns_stride": (((1, 4, 8, 64), 32), {"strides": 2}),
    "shared_coefficients": (((3, 3, 3, 4), 6, (3, 3), 4, True), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    shapes, options = CASES[name]
    x, kernels, coefficients = arrays(*shapes)
    plan = plan_of(x, kernels, **options)
    geometry = {key: value for key, value in options.items() if key != "changes"}
    y = jax.jit(lambda *a: dense_dynamic_conv(*a, plan))(x, kernels, coefficients)
    np.testing.assert_allclose(y, reference.dynamic_conv(x, kernels, coefficients, **geometry), rtol=1e-4, atol=1e-4)

    weights = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)

    def gradients(form):
        loss = lambda *a: jnp.sum(form(*a) * weights)  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, kernels, coefficients)

    plain = functools.partial(dynamic_conv, fusion="kernel", **geometry)
    actual = gradients(lambda *a: dense_dynamic_conv(*a, plan))
    chex.assert_trees_all_close(actual, gradients(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_precision_is_summed_in_float32():
    low = arrays((2, 4, 4, 12), 12, dtype=jnp.bfloat16)
    plan = plan_of(*low[:2])
    y = dense_dynamic_conv(*low, plan)
    assert y.dtype == jnp.bfloat16
    exact = reference.dynamic_conv(*(array.astype(jnp.float32) for array in low))
    assert np.abs(y.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()
    gradients = jax.grad(lambda *a: dense_dynamic_conv(*a, plan).astype(jnp.float32).sum(), argnums=(0, 1, 2))(*low)
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_devices_sum_the_gradient_of_the_bank():
    x, kernels, coefficients = arrays((16, 3, 3, 4), 5)
    plan = plan_of(x[:2], kernels)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

    def gradient(x, kernels, coefficients):
        # Interpreted kernels cannot tell over which devices values vary, so the sum is written out.
        loss = lambda kernels: jnp.sum(dense_dynamic_conv(x, kernels, coefficients, plan) ** 2)  # noqa: E731
        return jax.lax.psum(jax.grad(loss)(kernels), "batch")

    specs = (P("batch"), P(), P("batch"))
    spread = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False))
    whole = jax.grad(lambda kernels: jnp.sum(dynamic_conv(x, kernels, coefficients) ** 2))(kernels)
    np.testing.assert_allclose(spread(x, kernels, coefficients), whole, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_where_only_some_operands_differ_between_devices(groups):
    """Traced only: interpreted kernels cannot tell over which devices values vary."""
    x, kernels, _ = arrays((16, 4, 4, 6 * groups), 6 * groups)
    kernels = kernels[:, :, :, :6]
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

    def gradient(x, kernels):
        constant = jnp.ones((2, 4, kernels.shape[-1]))
        loss = lambda k: jnp.sum(dynamic_conv(x, k, constant, feature_group_count=groups))  # noqa: E731
        return jax.grad(loss)(kernels)

    spread = jax.shard_map(gradient, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P())
    with tracing_for("tpu"):
        program = str(jax.make_jaxpr(spread)(x, kernels))
    assert "conv_gradients" in program
    assert "psum" in program


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "geometry"),
    [
        ((2, 8, 12), (3,), {}),
        ((2, 8, 8, 12), (1, 1), {}),  # a batched matrix product
        ((2, 8, 8, 12), (3, 3), {"padding": ((-1, 1), (0, 0))}),
        ((2, 8, 8, 512), (3, 3), {}),  # the bank does not fit
        ((2, 8, 8, 192), (3, 3), {}),  # neither one tile of channels nor several
    ],
)
def test_other_layers_are_left_to_the_plain_forms(shape, kernel_shape, geometry):
    kernels = jax.ShapeDtypeStruct((6, *kernel_shape, shape[-1], shape[-1]), jnp.bfloat16)
    assert plan_of(jnp.zeros(shape, jnp.bfloat16), kernels, **geometry) is None


def test_groups_are_left_to_other_forms():
    x, kernels, _ = arrays((2, 4, 4, 6), 6)
    window = make_window(x.shape, (3, 3), 1, "SAME", 1)
    assert make_dense_plan(x, kernels, 2, window) is None


@pytest.mark.parametrize(("size", "channels"), [(56, 32), (28, 64), (14, 128), (7, 256)])
def test_the_layers_of_dy_resnets_fit(size, channels):
    x = jnp.zeros((64, size, size, channels), jnp.bfloat16)
    kernels = jax.ShapeDtypeStruct((6, 3, 3, channels, channels), jnp.bfloat16)
    plan = plan_of(x, kernels)
    bank = jax.ShapeDtypeStruct((6, 3, 3 * channels, channels), jnp.bfloat16)
    assert plan.bytes(x, bank) <= DENSE_BYTES
    assert 64 % plan.images == size % plan.rows == 3 * channels % plan.chunk == plan.chunk % 16 == 0


def test_dynamic_conv_takes_it_on_tpus_only(monkeypatch):
    x, kernels, coefficients = arrays((2, 4, 4, 6), 8)

    def program(backend="tpu", **options):
        with tracing_for(backend):
            return str(jax.make_jaxpr(lambda *a: dynamic_conv(*a, **options))(x, kernels, coefficients))

    assert "dense_conv" in program()
    assert "dense_conv" in program(fusion="kernel")
    assert "dense_conv" not in program(fusion="feature")
    assert "dense_conv" not in program(precision="highest")
    assert "dense_conv" not in program(backend="gpu")
    with jax.default_matmul_precision("highest"):
        assert "dense_conv" not in program()
    monkeypatch.setenv("DYNET_JAX_PALLAS", "0")
    assert "dense_conv" not in program()


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("layer", [(56, 32, 32, 1), (56, 32, 64, 2), (7, 256, 256, 1)])
def test_it_compiles_for_tpus_and_moves_less(layer, topology):
    size, c_in, c_out, strides = layer
    kernel, feature = moved((size, c_in, c_in, c_out, strides, 64), topology)
    assert kernel < 0.5 * feature


@needs_libtpu
@pytest.mark.parametrize("layer", [(15, 3, 20, 2, 5), (9, 18, 66, 1, 2), (28, 64, 128, 2, 4), (14, 256, 256, 2, 4)])
def test_it_compiles_for_odd_shapes(layer):
    size, c_in, c_out, strides, batch = layer
    assert min(moved((size, c_in, c_in, c_out, strides, batch), "v5e:2x2")) > 0
