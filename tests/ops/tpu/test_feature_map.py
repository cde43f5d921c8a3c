"""Maps that are normalised where they are read: against numpy, and against convolutions of the maps themselves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.layers import spatial_mean
from dynet_jax.ops import conv, dynamic_conv
from dynet_jax.ops.maps import activate, add, moments, to_array
from dynet_jax.ops.strips import channel_sums
from dynet_jax.ops.tpu import dynamic
from dynet_jax.ops.tpu.feature_map import DeferredMap

ACTIVATIONS = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
}


def normalized(shape, activation, with_sums=False):
    rng = np.random.default_rng(0)
    x, multiplier, offset = (
        jnp.asarray(rng.normal(scale=3, size=s), jnp.float32) for s in (shape, *[(shape[0], shape[-1])] * 2)
    )
    return DeferredMap(x, multiplier, offset, activation, channel_sums(x) if with_sums else None)


def expected(x: DeferredMap):
    per_image = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    z = np.asarray(x.x, np.float64) * x.multiplier.reshape(per_image) + x.offset.reshape(per_image)
    return ACTIVATIONS[x.activation](z)


@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 4, 2, 5), (2, 2, 3, 2, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_map_itself(shape, activation):
    x = normalized(shape, activation)
    np.testing.assert_allclose(to_array(x), expected(x), rtol=1e-5, atol=1e-5)
    assert (x.shape, x.ndim, x.dtype) == (shape, len(shape), jnp.float32)


def test_an_array_is_one_already():
    x = jnp.ones((2, 3, 4))
    assert to_array(x) is x


def test_half_precision_is_normalised_in_float32():
    """200.5 - 200 in bfloat16 would be 0 or 1."""
    x = DeferredMap(jnp.full((1, 1, 1), 1.0, jnp.bfloat16), jnp.full((1, 1), 200.5), jnp.full((1, 1), -200.0))
    y = to_array(x)
    assert (y.dtype, y.item()) == (jnp.bfloat16, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strips_are_only_another_order(activation):
    """Of the map, and of the gradients of what it is made of."""
    x = normalized((3, 8, 2, 5), activation)
    in_strips = x.in_strips(4)
    assert (in_strips.x.shape, in_strips.shape) == ((12, 2, 2, 5), x.shape)
    np.testing.assert_array_equal(to_array(in_strips), to_array(x))
    np.testing.assert_allclose(spatial_mean(in_strips), spatial_mean(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(channel_sums(in_strips.x, 4), channel_sums(x.x), rtol=1e-5)
    again = in_strips.in_strips(2).in_strips(1)
    chex.assert_trees_all_equal(again, x)

    def gradients(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(to_array(x))) + jnp.sum(jnp.cos(spatial_mean(x))))(x)

    chex.assert_trees_all_close(gradients(in_strips).in_strips(1), gradients(x), rtol=1e-5, atol=1e-5)


def test_sums():
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    sums = channel_sums(jnp.asarray(x))
    np.testing.assert_allclose(sums, [x.sum((1, 2)), (x**2).sum((1, 2))], rtol=1e-5)
    assert channel_sums(jnp.full((1, 1000, 1), 1.0, jnp.bfloat16))[0].item() == 1000  # bfloat16 would stop at 256


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_sums", [True, False])
def test_means(activation, with_sums):
    x = normalized((3, 4, 2, 5), activation, with_sums)
    np.testing.assert_allclose(spatial_mean(x), expected(x).mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(spatial_mean(x, keepdims=True), spatial_mean(x)[:, None, None])


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["kernel", "feature"])
def test_dynamic_conv_of_one_is_that_of_the_map(fusion, monkeypatch):
    """Values, sums, and gradients of all that it is made of; here by XLA's forms."""
    monkeypatch.setattr(dynamic, "_plan", lambda *_: None)
    x = normalized((2, 4, 4, 6), "relu6")
    rng = np.random.default_rng(1)
    bank, coefficients = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 3, 3, 2, 6), (2, 3, 6)))

    def both(x, bank, coefficients):
        y = dynamic_conv(x, bank, coefficients, feature_group_count=3, fusion=fusion)
        return y.x, y.sums

    def of_the_map(x, bank, coefficients):
        y = dynamic_conv(to_array(x), bank, coefficients, feature_group_count=3, fusion=fusion)
        return y, jnp.stack([y.sum((1, 2)), (y**2).sum((1, 2))])

    def gradients(form):
        loss = lambda *a: sum(jnp.sum(jnp.sin(part)) for part in form(*a))  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, bank, coefficients)

    chex.assert_trees_all_close(both(x, bank, coefficients), of_the_map(x, bank, coefficients), rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(gradients(both), gradients(of_the_map), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strips", [1, 4])
@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_swish"])
def test_activations_are_those_of_the_array(activation, strips):
    x = normalized((3, 8, 2, 5), None)
    once = activate(x.in_strips(strips), activation)
    np.testing.assert_allclose(to_array(once), activate(to_array(x), activation), rtol=1e-5, atol=1e-5)
    twice = activate(once, "relu6")
    np.testing.assert_allclose(to_array(twice), activate(to_array(once), "relu6"), rtol=1e-5, atol=1e-5)


def test_sums_of_maps_are_maps():
    x, y = normalized((2, 4, 4, 3), "relu"), normalized((2, 4, 4, 3), None).in_strips(2)
    total = add(x, y)
    assert isinstance(total, DeferredMap)
    np.testing.assert_array_equal(to_array(total), to_array(x) + to_array(y))


@pytest.mark.parametrize("padding", ["SAME", "TORCH", "VALID", ((1, 0), (2, 1))])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_static_convolution_in_strips_is_that_of_the_map(strides, padding):
    """64 images whose result has more channels are cut in two; moments are those of whole images."""
    rng = np.random.default_rng(2)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((64, 17, 9, 3), (3, 3, 3, 16)))
    options = dict(strides=strides, padding=padding)
    y, expected = conv(DeferredMap(x), kernel, **options), conv(x, kernel, **options)
    assert y.strips == (2 if expected.shape[1] % 2 == 0 else 1)
    np.testing.assert_allclose(to_array(y), expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(moments(y, 4), moments(expected, 4)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
