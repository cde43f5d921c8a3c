"""Annotated shapes are checked in the tests, and only there."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from dynet_jax import DynamicConv
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.maps import add, moments, normalize, split
from dynet_jax.ops.tpu.feature_map import DeferredMap
from dynet_jax.tasks.losses import count_correct, cross_entropy
from tests.shape_checks import with_checks

X, BANK = jnp.ones((2, 4, 4, 3)), jnp.ones((6, 3, 3, 3, 8))
CHANNELS, OTHERS = jnp.ones(3), jnp.ones(4)

WRONG = {
    "coefficients of another batch": lambda: dynamic_conv(X, BANK, jnp.ones((3, 6, 8))),
    "coefficients of fewer kernels": lambda: dynamic_conv(X, BANK, jnp.ones((2, 5, 8))),
    "no axis of channels": lambda: dynamic_conv(X[0, 0, 0], BANK, jnp.ones((2, 6, 8))),
    "labels with an axis too many": lambda: cross_entropy(jnp.ones((4, 10)), jnp.zeros((4, 1), int)),
    "one label for all": lambda: count_correct(jnp.ones((4, 10)), jnp.zeros(1, int)),
    "labels that are no numbers of classes": lambda: cross_entropy(jnp.ones((4, 10)), jnp.zeros(4)),
    "statistics of other channels": lambda: normalize(X, CHANNELS, CHANNELS, CHANNELS, OTHERS, 1e-5),
    "an opaque map": lambda: normalize(DeferredMap(X), OTHERS, OTHERS, CHANNELS, CHANNELS, 1e-5),
    "inside of jit": lambda: jax.jit(dynamic_conv)(X, BANK, jnp.ones((3, 6, 8))),
    "a shape that is not computed": lambda: jax.eval_shape(cross_entropy, jnp.ones((4, 10)), jnp.zeros((4, 1), int)),
    "an operand that is no array": lambda: moments([1.0, 2.0], 1),
    "a layer's map": lambda: DynamicConv(8, (3, 3)).init(jax.random.key(0), X, jnp.ones((6, 8))),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_caught(call):
    with pytest.raises(jaxtyping.TypeCheckError, match="Type-check error whilst checking the parameters"):
        call()


def test_right_shapes_are_not():
    jax.jit(dynamic_conv)(X, BANK, jnp.ones((2, 6, 1)))
    first, rest = split(DeferredMap(X), 1)
    assert (first.shape, rest.shape) == ((2, 4, 4, 1), (2, 4, 4, 2))
    assert add(X, CHANNELS).shape == X.shape


MODULE = """
from jax import Array
from jaxtyping import Shaped

def transposed(x: Shaped[Array, "a b"]) -> Shaped[Array, "b a"]:
    return x

def without_axes(x: Array) -> Array:
    return x

class Layer:
    def doubled(self, x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        def concatenated(x: Shaped[Array, "*shape"]):
            return [x, x]
        return concatenated(x)
"""


def test_a_wrong_result_is_caught():
    names: dict = {}
    exec(compile(with_checks(MODULE), "module", "exec"), names)
    with pytest.raises(jaxtyping.TypeCheckError, match="the return value of"):
        names["transposed"](jnp.ones((2, 3)))
    assert names["transposed"](jnp.ones((3, 3))).shape == (3, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="the return value of"):
        names["Layer"]().doubled(jnp.ones(2))
    assert names["without_axes"]("anything") == "anything"


@pytest.mark.slow
def test_users_have_no_checks_and_need_no_checker():
    code = """
import sys, jax.numpy as jnp
from dynet_jax.tasks.losses import cross_entropy
print(cross_entropy(jnp.ones((4, 10)), jnp.zeros((4, 1), int)).shape, "beartype" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split(")")[1].strip() == "False"
