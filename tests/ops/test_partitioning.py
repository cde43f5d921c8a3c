"""What becomes of per-example convolutions when the batch is spread over 8 devices."""

import importlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dynet_jax.ops import dynamic_conv

# One layer of each kind: (channels, kernel size, groups).
LAYERS = {"pointwise": (12, 1, 1), "dense": (4, 3, 1), "grouped": (12, 3, 2), "depthwise": (8, 3, 8)}


@pytest.fixture(scope="module")
def mesh():
    assert jax.device_count() == 8
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def data_moving_collectives(program):
    """Kinds of collectives by which devices read one another's examples; sums (all-reduce) are not among them."""
    kinds = r"\b(all-gather|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all)\b"
    return set(re.findall(kinds, program.compile().as_text()))


def raw_conv(x, kernels):
    """The form that this package avoids: it folds the batch into feature_group_count."""

    def one_example(x, kernel):
        dimension_numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=dimension_numbers)[0]

    return jax.vmap(one_example)(x, kernels)


def check_raw_conv(sharding):
    x, kernels = normal(16, 4, 4, 8), normal(16, 1, 1, 8, 16)
    y = jax.jit(raw_conv)(jax.device_put(x, sharding), jax.device_put(kernels, sharding))
    np.testing.assert_allclose(y, np.einsum("bhwi,bio->bhwo", x, kernels[:, 0, 0]), rtol=1e-4, atol=1e-4)


def test_raw_conv_is_right_on_one_device():
    check_raw_conv(None)


@pytest.mark.xfail(
    strict=True,
    raises=(AssertionError, jax.errors.JaxRuntimeError),
    reason="XLA's partitioner returns wrong numbers, or refuses to compile (openxla/xla#47945). When this passes, XLA "
    "is mended, and a vmapped lax.conv_general_dilated may be considered again outside of shard_map.",
)
def test_raw_conv_is_right_on_a_sharded_batch(mesh):
    check_raw_conv(NamedSharding(mesh, P("data")))


@pytest.fixture(scope="module", params=LAYERS)
def layer(request):
    """A layer's operands and what one device makes of them."""
    channels, size, groups = LAYERS[request.param]
    x, kernels = normal(16, 5, 5, channels), normal(3, size, size, channels // groups, channels)
    operands = x, kernels, normal(16, 3, channels)
    return operands, groups, jax.jit(value_and_gradients("kernel", groups))(*operands)


def value_and_gradients(fusion, groups, axis_name=None):
    def loss(x, kernels, coefficients):
        y = dynamic_conv(x, kernels, coefficients, strides=2, feature_group_count=groups, fusion=fusion)
        mean = jnp.mean(jnp.sin(y))
        return (mean if axis_name is None else lax.pmean(mean, axis_name)), y

    def run(*operands):
        (_, y), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*operands)
        return y, gradients

    return run


def over_devices(mesh, fusion, groups):
    specs = P("data"), P(), P("data")
    run = value_and_gradients(fusion, groups, "data")
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(P("data"), specs)))


@pytest.mark.parametrize("fusion", ["kernel", "feature"])
def test_shard_map_equals_one_device_and_moves_no_examples(mesh, layer, fusion):
    operands, groups, expected = layer
    program = over_devices(mesh, fusion, groups)
    chex.assert_trees_all_close(program(*operands), expected, rtol=1e-4, atol=1e-5)
    assert not data_moving_collectives(program.lower(*operands))


@pytest.mark.parametrize("fusion", ["kernel", "feature"])
def test_plain_jit_on_a_sharded_batch_is_right(mesh, layer, fusion):
    (x, kernels, coefficients), groups, expected = layer
    batch = NamedSharding(mesh, P("data"))
    operands = jax.device_put(x, batch), kernels, jax.device_put(coefficients, batch)
    got = jax.jit(value_and_gradients(fusion, groups))(*operands)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_chunks_for_the_cache_move_no_examples_either(mesh, monkeypatch):
    operands, groups = (normal(16, 5, 5, 12), normal(3, 3, 3, 6, 12), normal(16, 3, 12)), 2
    expected = jax.jit(value_and_gradients("kernel", groups))(*operands)
    monkeypatch.setattr(importlib.import_module("dynet_jax.ops.conv"), "CACHE_BYTES", 1)
    batch = NamedSharding(mesh, P("data"))
    sharded = [jax.device_put(a, s) for a, s in zip(operands, (batch, None, batch))]
    chex.assert_trees_all_close(
        jax.jit(value_and_gradients("kernel", groups))(*sharded), expected, rtol=1e-4, atol=1e-5
    )

    program = over_devices(mesh, "kernel", groups)
    assert "length=2" in str(jax.make_jaxpr(program)(*operands))
    chex.assert_trees_all_close(program(*operands), expected, rtol=1e-4, atol=1e-5)
    assert not data_moving_collectives(program.lower(*operands))


def test_the_search_for_collectives_can_find_one(mesh):
    gather = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, P()))
    x = jax.device_put(normal(16, 4), NamedSharding(mesh, P("data")))
    assert data_moving_collectives(gather.lower(x)) == {"all-gather"}
