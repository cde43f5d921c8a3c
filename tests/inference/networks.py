"""What the tests of runtimes and exporters share: small networks as if they had been trained, images, and logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.inference import program_of
from tests.models.smallest import shallow, smallest
from tests.models.trained import trained_variables

SIZE = 64  # of the image that networks are recorded with
PIXELS = {"mean": (120.0, 115.0, 105.0), "std": (60.0, 58.0, 62.0)}
NAMES = [f"class {index}" for index in range(5)]


def images(batch, height=SIZE, width=SIZE):
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)


def normalized(pixels):
    return (pixels - np.float32(PIXELS["mean"])) / np.float32(PIXELS["std"])


@functools.cache
def network(name, **arguments):
    """(model, variables, program) of a network, with every kind of its blocks: repeats would compile for long."""
    model = shallow(smallest(name, **arguments))
    variables = trained_variables(model, SIZE)
    return model, variables, program_of(model, variables, SIZE)


@functools.cache
def expected(name, *shape, **arguments):
    """The network's own logits, in evaluation, computed in float64: in float32 rounding alone can reach 1e-4."""
    model, variables, _ = network(name, **arguments)
    with jax.enable_x64(True):
        apply = jax.jit(lambda v, x: model.clone(dtype=jnp.float64).apply(v, x, train=False))
        doubles = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        return np.asarray(apply(doubles, normalized(images(*shape)).astype(np.float64)))


def assert_same(logits, wanted, tolerance=1e-4):
    assert logits.shape == wanted.shape
    assert np.abs(logits - wanted).max() <= tolerance * np.abs(wanted).max()
