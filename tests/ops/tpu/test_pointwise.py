"""The TPU's kernel for 1x1 layers of few channels, interpreted, against the batched matrix product and a numpy loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.tpu.dynamic import pointwise_dynamic_conv
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan, make_pointwise_plan
from dynet_jax.ops.window import make_window
from tests import reference
from tests.ops.tpu.compiled import moved, needs_libtpu


def arrays(batch, spatial, c_in, c_out, shared=False, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = (batch, *spatial, c_in), (4, 1, 1, c_in, c_out), (batch, 4, 1 if shared else c_out)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "spatial", "c_in", "c_out", "plan", "shared"),
    [
        (2, (3, 4), 5, 7, PointwisePlan(rows=3, images=2), False),
        (4, (4, 3), 5, 3, PointwisePlan(rows=2, images=2), False),  # blocks of rows and of images
        (3, (2, 2), 1, 2, PointwisePlan(rows=1, images=3), True),
        (3, (8, 3), 5, 4, PointwisePlan(rows=1, images=12, strips=4), False),
    ],
)
def test_values_and_gradients(batch, spatial, c_in, c_out, plan, shared):
    inputs = arrays(batch, spatial, c_in, c_out, shared)
    plan = plan._replace(interpret=True)
    y = pointwise_dynamic_conv(*inputs, plan)
    np.testing.assert_allclose(y, reference.dynamic_conv(*inputs), rtol=1e-4, atol=1e-4)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)

    def gradients(form):
        return jax.grad(lambda *a: jnp.sum(form(*a) * weights), argnums=(0, 1, 2))(*inputs)

    actual = gradients(lambda *a: pointwise_dynamic_conv(*a, plan))
    expected = gradients(lambda *a: dynamic_conv(*a, fusion="kernel"))
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_summed_in_float32():
    inputs = arrays(2, (3, 3), 40, 8, dtype=jnp.bfloat16)
    y = pointwise_dynamic_conv(*inputs, PointwisePlan(3, 2, interpret=True))
    assert y.dtype == jnp.bfloat16
    exact = reference.dynamic_conv(*(array.astype(jnp.float32) for array in inputs))
    assert np.abs(y.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("shape", "c_out", "options", "planned"),
    [
        ((64, 56, 56, 24), 24, {}, True),
        ((128, 56, 56, 24), 40, {}, True),
        ((32, 56, 56, 24), 24, {}, True),  # in strips
        ((8, 28, 28, 24), 24, {}, False),  # the lanes would be empty
        ((64, 56, 56, 24), 41, {}, False),  # the matrix unit's
        ((64, 56, 56, 24), 24, {"groups": 2}, False),
        ((64, 56, 56, 24), 24, {"strides": 2}, False),
        ((64, 56, 56, 24), 24, {"kernel_size": (3, 3)}, False),
        ((64, 56, 24), 24, {"kernel_size": (1,)}, False),
    ],
)
def test_which_layers_it_does(shape, c_out, options, planned):
    kernel_size, strides = options.get("kernel_size", (1, 1)), options.get("strides", 1)
    window = make_window(shape, kernel_size, strides, "SAME", 1)
    x, kernels = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, (4, *kernel_size, shape[-1], c_out)))
    plan = make_pointwise_plan(x, kernels, options.get("groups", 1), window)
    assert (plan is not None) == planned
    if planned:
        assert shape[1] % (plan.strips * plan.rows) == plan.strips * shape[0] % plan.images == 0


def test_it_is_chosen_for_tpus():
    inputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays(1, (2, 2), 3, 6)]
    inputs = [jax.ShapeDtypeStruct((64, *a.shape[1:]) if a.shape[0] == 1 else a.shape, a.dtype) for a in inputs]
    with tracing_for("tpu"):
        assert "pointwise_conv" in str(jax.make_jaxpr(lambda *a: dynamic_conv(*a))(*inputs))
    assert "pointwise_conv" not in str(jax.make_jaxpr(lambda *a: dynamic_conv(*a))(*inputs))


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("layer", [(56, 24, 24, 36, 1, 64), (112, 32, 32, 18, 1, 128)])
def test_it_compiles_for_tpus_and_moves_fewer_bytes(layer, topology):
    planned, by_feature = moved(layer, topology, kernel_size=(1, 1))
    assert planned < by_feature / 2
