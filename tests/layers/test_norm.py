"""BatchNorm against numpy, against Flax, and against itself on another number of devices."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dynet_jax import BatchNorm
from dynet_jax.ops.maps import to_array
from dynet_jax.ops.strips import channel_sums
from dynet_jax.ops.tpu.feature_map import DeferredMap

FEATURES = 5


def images(batch, dtype=np.float32):
    """Examples whose mean and scale differ, so that it matters which of them share statistics."""
    rng = np.random.default_rng(0)
    scale, shift = rng.uniform(0.5, 2, (2, batch, 1, 1, FEATURES))
    return (rng.normal(size=(batch, 3, 4, FEATURES)) * scale + shift).astype(dtype)


def variables():
    rng = np.random.default_rng(1)
    scale, bias, mean, var = rng.uniform(0.5, 2, (4, FEATURES)).astype(np.float32)
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def normalise(x, mean, var):
    params = variables()["params"]
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def train(norm, x):
    return norm.apply(variables(), x, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("batch", "bn_batch_size", "groups"), [(12, 4, 3), (12, 12, 1), (12, None, 1), (12, 64, 1), (3, 1, 3)]
)
def test_every_group_has_its_own_statistics(batch, bn_batch_size, groups):
    x = images(batch)
    parts = np.split(x.astype(np.float64), groups)
    means, variances = [[f(part, (0, 1, 2)) for part in parts] for f in (np.mean, np.var)]
    expected = np.concatenate([normalise(*part) for part in zip(parts, means, variances)])

    y, updates = train(BatchNorm(use_running_average=False, bn_batch_size=bn_batch_size, momentum=0.8), x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    old = variables()["batch_stats"]
    running = {"mean": np.mean(means, 0), "var": np.mean(variances, 0)}
    for name, value in running.items():
        np.testing.assert_allclose(updates["batch_stats"][name], 0.8 * old[name] + 0.2 * value, rtol=1e-5)


def loss_and_gradients(norm, x, axis_name=None, form=lambda x: x):
    """Returns outputs, running statistics, and gradients of parameters and input."""
    targets = jnp.cos(jnp.arange(x[0].size, dtype=jnp.float32)).reshape(x[0].shape)

    def loss(params, x):
        y, updates = norm.apply({**variables(), "params": params}, form(x), mutable=["batch_stats"])
        y = to_array(y)
        value = jnp.mean(y**2 * targets)  # a plain mean of y would have no gradient
        return (value if axis_name is None else lax.pmean(value, axis_name)), (y, updates)

    (_, (y, updates)), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables()["params"], x)
    return y, updates["batch_stats"], *gradients


def test_whole_batch_equals_flax():
    x = images(6)
    layers = BatchNorm(use_running_average=False), nn.BatchNorm(use_running_average=False, momentum=0.9)
    ours, theirs = jax.jit(lambda x: [loss_and_gradients(layer, x) for layer in layers])(x)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bn_batch_size", "axis_name", "differ_along"),
    [
        (8, "member", "group"),
        (None, ("group", "member"), ()),
        (2, None, ("group", "member")),
        (1, None, ("group", "member")),
    ],
)
@pytest.mark.parametrize("deferred", [False, True])
def test_eight_devices_compute_what_one_does(bn_batch_size, axis_name, differ_along, deferred):
    """16 examples, 2 on each device: a group of 8 is spread over 4 devices, the whole batch over all."""
    mesh = jax.make_mesh((2, 4), ("group", "member"), axis_types=(AxisType.Auto,) * 2)
    everywhere = "group", "member"
    batch = P(everywhere)
    x = images(16)
    expected = jax.jit(lambda x: loss_and_gradients(BatchNorm(False, bn_batch_size, unbiased=True), x))(x)

    def on_a_device(x):
        norm = BatchNorm(False, bn_batch_size, axis_name, unbiased=True)
        y, stats, *gradients = loss_and_gradients(norm, x, everywhere, with_sums if deferred else lambda x: x)
        return y, lax.pmean(stats, differ_along), *gradients

    spread = jax.shard_map(on_a_device, mesh=mesh, in_specs=batch, out_specs=(batch, P(), P(), batch))
    chex.assert_trees_all_close(jax.jit(spread)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bn_batch_size", "count"), [(None, 6 * 3 * 4), (2, 2 * 3 * 4)])
def test_unbiased_is_bessels_correction(bn_batch_size, count):
    """It applies only to the running variance, with the number of values behind one variance."""
    x = images(6)
    _, biased = train(BatchNorm(False, bn_batch_size, momentum=0.0), x)
    _, unbiased = train(BatchNorm(False, bn_batch_size, momentum=0.0, unbiased=True), x)
    ratio = unbiased["batch_stats"]["var"] / biased["batch_stats"]["var"]
    np.testing.assert_allclose(ratio, count / (count - 1), rtol=1e-5)
    chex.assert_trees_all_equal(unbiased["batch_stats"]["mean"], biased["batch_stats"]["mean"])
    if bn_batch_size is None:
        np.testing.assert_allclose(unbiased["batch_stats"]["var"], x.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_evaluation_uses_and_keeps_the_running_statistics():
    x, stats = images(3), variables()["batch_stats"]
    norm = BatchNorm(use_running_average=True, bn_batch_size=2)  # groups play no part in evaluation
    y, updates = train(norm, x)
    np.testing.assert_allclose(y, normalise(x, stats["mean"], stats["var"]), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(updates["batch_stats"], stats)


def with_sums(x):
    return DeferredMap(jnp.asarray(x), sums=channel_sums(x))


def in_strips(x):
    return DeferredMap(jnp.asarray(x)).in_strips(3)


@pytest.mark.parametrize("form", [DeferredMap, with_sums, in_strips])
@pytest.mark.parametrize("bn_batch_size", [2, None])
def test_an_opaque_map_is_normalised_alike(bn_batch_size, form):
    x = images(6)

    def both(x):
        norm = BatchNorm(False, bn_batch_size, unbiased=True)
        return loss_and_gradients(norm, x), loss_and_gradients(norm, x, form=form)

    plain, opaque = jax.jit(both)(x)
    chex.assert_trees_all_close(opaque, plain, rtol=1e-4, atol=1e-5)
    result, _ = train(BatchNorm(False, bn_batch_size), form(x))
    assert isinstance(result, DeferredMap)
    np.testing.assert_array_equal(result.x, form(x).x)  # it has not been written


def test_a_map_is_normalised_twice():
    """This happens after an activation that is computed at once, or if the network does it."""
    x = images(6)
    norm = BatchNorm(False)
    twice = [train(norm, train(norm, form(x))[0])[0] for form in (lambda x: x, DeferredMap)]
    np.testing.assert_allclose(to_array(twice[1]), twice[0], rtol=1e-4, atol=1e-5)


def test_evaluation_normalises_opaque_maps_too():
    norm, x = BatchNorm(use_running_average=True), images(3)
    (expected, _), (opaque, _) = train(norm, x), train(norm, DeferredMap(x))
    np.testing.assert_allclose(to_array(opaque), expected, rtol=1e-5, atol=1e-5)


def test_init_neither_needs_the_mesh_nor_moves_the_statistics():
    fresh = BatchNorm(use_running_average=False, axis_name="data").init(jax.random.key(0), images(4))
    chex.assert_trees_all_equal(fresh["batch_stats"], {"mean": jnp.zeros(FEATURES), "var": jnp.ones(FEATURES)})


def test_statistics_stay_float32_in_bfloat16():
    x = jnp.asarray(images(64), jnp.bfloat16) + 100  # in bfloat16, a sum of these would stop growing
    norm = BatchNorm(use_running_average=False, dtype=jnp.bfloat16, momentum=0.0)
    y, updates = train(norm, x)
    exact = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(norm.init(jax.random.key(0), x))} == {jnp.dtype("float32")}
    assert updates["batch_stats"]["var"].dtype == jnp.float32
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var((0, 1, 2)), rtol=1e-2)


def test_a_batch_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 10 examples cannot be split into groups of bn_batch_size=4"):
        train(BatchNorm(use_running_average=False, bn_batch_size=4), images(10))
