"""Networks to be timed, with random variables, since their speed does not depend on the values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.inference import program_of
from dynet_jax.inference.program import Program
from dynet_jax.models import create_model


def of_width(width: float) -> dict[str, float]:
    """Returns the arguments for a width; width 1 gives none, so that a network keeps its own."""
    return {} if width == 1 else {"width": width}


@functools.lru_cache(maxsize=2)  # for a network and its base, which alternate
def random_program(network: str, width: float) -> Program:
    """Returns the program of a network with random variables.

    They give numbers of ordinary size: nothing is denormal, infinite or saturated.
    """
    model = create_model(network, **of_width(width))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    random = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(lambda path, leaf: _array(random, path, leaf.shape), shapes)
    return program_of(model, variables, 64)


def _array(random: np.random.Generator, path: tuple, shape: tuple[int, ...]) -> np.ndarray:
    *modules, name = (key.key for key in path)
    if name in ("bias", "mean"):
        return np.zeros(shape, np.float32)
    if name in ("scale", "var"):
        return np.ones(shape, np.float32)
    # With a gain of 1, a layer and its ReLU would keep the variance, and residual sums would double it every time.
    gain = 0.7 * np.sqrt(2 / np.prod(shape[1:-1] if name == "kernels" else shape[:-1]))
    if name == "kernels":
        gain *= 2 / np.sqrt(shape[0])  # a fused kernel is the sum of the bank's kernels, each times about a half
    if "coefficients" in modules:
        gain *= 0.05  # larger ones would switch kernels on and off, and any rounding would change the network
    return np.float32(gain) * random.standard_normal(shape, np.float32)
