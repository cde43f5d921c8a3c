"""Reading and replacing coefficients from outside, in a network whose convolutions get them in every possible way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import CoefficientPredictor, CoefficientSpec, DynamicConv
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, replaced_coefficients, sown_coefficients


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        first, second = CoefficientPredictor((4, 3), group_size=2, name="predictor")(x)
        x = DynamicConv(4, (3, 3), group_size=2, name="positional")(x, first)
        return DynamicConv(3, (1, 1), group_size=2, name="named")(x, coefficients=second)


class Net(nn.Module):
    """A block, whose results are computed again in the backward pass, and one layer with its own predictor, twice."""

    @nn.compact
    def __call__(self, x):
        x = nn.remat(Block)(name="block")(x)
        own = DynamicConv(3, (1, 1), spec=CoefficientSpec(2, coefficient_scope="layer"), name="own")
        return own(own(x))


NAMES = {"block/positional": (5, 2, 4), "block/named": (5, 2, 3), "own": (5, 2, 1), "own (2)": (5, 2, 1)}


@pytest.fixture(scope="module")
def net():
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 3)).astype(np.float32)
    variables = Net().init(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), variables), x


def seen(variables, x):
    with sown_coefficients():
        y, sown = Net().apply(variables, x, mutable=[COLLECTION])
    return y, dict(named_coefficients(sown[COLLECTION]))


@pytest.mark.slow
def test_all_are_seen_by_name(net):
    y, coefficients = seen(*net)
    assert {name: values.shape for name, values in coefficients.items()} == NAMES
    np.testing.assert_array_equal(y, Net().apply(*net))


@pytest.mark.parametrize("apply", [Net().apply, lambda *args: jax.jit(Net().apply)(*args)], ids=["eager", "jit"])
def test_a_network_with_anothers_coefficients(net, apply):
    """Its own coefficients change nothing; those of other images give, image by image, their own results."""
    variables, x = net
    y, own = seen(variables, x)
    with replaced_coefficients(own):
        np.testing.assert_allclose(Net().apply(variables, x), y, rtol=1e-6)

    rolled = {name: jnp.roll(values, 1, axis=0) for name, values in own.items()}
    with replaced_coefficients(rolled):
        actual = apply(variables, x)
    expected = by_hand(variables["params"], x, {name: np.roll(values, 1, axis=0) for name, values in own.items()})
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(actual - y).max() > 0.1

    half = dict.fromkeys(NAMES, jnp.float32(0.5))
    with replaced_coefficients(half):
        actual = apply(variables, x)
    expected = by_hand(variables["params"], x, {name: np.full(shape, 0.5) for name, shape in NAMES.items()})
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_names_that_are_not_given_stay(net):
    variables, x = net
    _, own = seen(variables, x)
    with replaced_coefficients({"own (2)": jnp.float32(0.25), "nowhere": jnp.float32(0.0)}) as replaced:
        actual = Net().apply(variables, x)
    assert replaced == {"own (2)"}
    wanted = {**own, "own (2)": np.full(NAMES["own (2)"], 0.25)}
    np.testing.assert_allclose(actual, by_hand(variables["params"], x, wanted), rtol=1e-3, atol=1e-3)


def by_hand(params, x, coefficients):
    def convolve(name, params, x):
        kernels, c = np.asarray(params["kernels"], np.float64), np.asarray(coefficients[name], np.float64)
        fused = np.einsum("bgo,ghwio->bhwio", np.broadcast_to(c, (*c.shape[:2], kernels.shape[-1])), kernels)
        pad = kernels.shape[1] // 2
        padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        y = np.zeros((*x.shape[:3], kernels.shape[-1]))
        for row in range(kernels.shape[1]):
            for column in range(kernels.shape[2]):
                window = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
                y += np.einsum("bhwi,bio->bhwo", window, fused[:, row, column])
        return y + np.asarray(params["bias"])

    x = convolve("block/positional", params["block"]["positional"], x)
    x = convolve("block/named", params["block"]["named"], x)
    return convolve("own (2)", params["own"], convolve("own", params["own"], x))
