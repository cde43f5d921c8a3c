"""The static `Conv` is `flax.linen.Conv`, parameters included."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dynet_jax.layers import Conv
from tests import reference


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 7, 6, 4), {"kernel_size": (3, 3), "strides": 2}),
        ((2, 7, 6, 4), {"kernel_size": (1, 1), "use_bias": False}),
        ((2, 7, 6, 4), {"kernel_size": (3, 2), "feature_group_count": 4, "kernel_dilation": (1, 2), "padding": 1}),
        ((2, 7, 6, 4), {"kernel_size": (3, 3), "feature_group_count": 2, "padding": "REFLECT", "dtype": jnp.bfloat16}),
        ((2, 9, 4), {"kernel_size": 3, "padding": "CAUSAL"}),
    ],
)
def test_equals_flax(shape, options):
    ours, theirs = Conv(features=8, **options), nn.Conv(features=8, **options)

    @reference.jit
    def run(key):
        x = jax.random.normal(key, shape)
        variables = theirs.init(key, x)
        return (ours.init(key, x), variables), (ours.apply(variables, x), theirs.apply(variables, x))

    parameters, outputs = run(jax.random.key(0))
    chex.assert_trees_all_close(*parameters)
    tolerance = 2e-2 if "dtype" in options else 1e-4
    chex.assert_trees_all_close(*outputs, rtol=tolerance, atol=tolerance)
    assert jnp.abs(outputs[0]).max() > 0.1


@pytest.mark.usefixtures("without_shape_checks")
def test_refuses_coefficients_and_misfitting_groups():
    x = jnp.ones((2, 5, 5, 4))
    with pytest.raises(ValueError, match="takes no coefficients; use DynamicConv"):
        Conv(8, (3, 3)).init(jax.random.key(0), x, jnp.ones((2, 6, 8)))
    with pytest.raises(ValueError, match="feature_group_count=3 must divide both the 4 input channels and features=9"):
        Conv(9, (3, 3), feature_group_count=3).init(jax.random.key(0), x)
