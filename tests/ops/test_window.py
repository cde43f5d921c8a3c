"""The geometry of convolutions apart from padding."""

import jax.numpy as jnp
import pytest

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.window import make_window


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "REFLECT"])
def test_positions_are_those_of_the_array_before_padding(padding):
    assert make_window((2, 6, 5, 4), (3, 5), 1, padding, 1).positions((6, 5)) == 30


@pytest.mark.slow
def test_circular_windows_may_be_larger_than_the_map():
    x, bank, coefficients = jnp.ones((2, 2, 2, 4)), jnp.ones((6, 5, 5, 4, 8)), jnp.ones((2, 6, 8))
    assert dynamic_conv(x, bank, coefficients, padding="CIRCULAR").shape == (2, 2, 2, 8)
