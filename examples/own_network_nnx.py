"""Puts `dynet_jax.nnx.DynamicConv` into an NNX network of your own, and trains it on scikit-learn's digits.

    python examples/own_network_nnx.py [--epochs=20] [--seed=0]

The network is trained twice, with `nnx.Conv` and with `DynamicConv`, all else alike. Each dynamic layer has a predictor
of its own. Both take about a minute on two CPU cores.
"""

import sys
import time

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dynet_jax.analysis import count_macs
from dynet_jax.arguments import Parser, report_mistakes
from dynet_jax.data import load_source
from dynet_jax.errors import UserError
from dynet_jax.nnx import DynamicConv

BATCH = 64


def convolution(c_in: int, c_out: int, dynamic: bool, rngs: nnx.Rngs) -> nnx.Module:
    """Returns a 3x3 convolution of either kind."""
    if dynamic:
        return DynamicConv(c_in, c_out, (3, 3), group_size=6, rngs=rngs)
    return nnx.Conv(c_in, c_out, (3, 3), rngs=rngs)


class Network(nnx.Module):
    """A stem, two convolutions, each with its normalisation and a shortcut, and a classifier."""

    def __init__(self, dynamic: bool, features: int = 12, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, features, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.GroupNorm(features, num_groups=4, rngs=rngs) for _ in range(2)])
        self.convolutions = nnx.List([convolution(features, features, dynamic, rngs) for _ in range(2)])
        self.classifier = nnx.Linear(features, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convolutions):
            x = x + conv(nnx.relu(norm(x)))
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return self.classifier(x.mean((1, 2)))


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n, 8, 8, 1] from -1 to 1, and labels. Every fifth image is a test image."""
    source = load_source("digits", split)
    return source.images[..., None].astype(np.float32) / 127.5 - 1, source.labels


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, images, labels) -> None:
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def trained(dynamic: bool, images, labels, epochs: int, seed: int) -> Network:
    """Returns the network after the given number of epochs of Adam."""
    model = Network(dynamic, rngs=nnx.Rngs(seed))
    steps_per_epoch = len(images) // BATCH
    schedule = optax.cosine_decay_schedule(1e-2, epochs * steps_per_epoch)
    optimizer = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in rng.permutation(len(images))[: steps_per_epoch * BATCH].reshape(-1, BATCH):
            step(model, optimizer, images[batch], labels[batch])
    return model


def main() -> None:
    parser = Parser(prog="own_network_nnx.py", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.epochs < 1:
        raise UserError(f"--epochs must be at least 1, not {options.epochs}")
    images, labels = digits("train")
    test_images, test_labels = digits("test")
    print(f"{len(images)} training and {len(test_images)} test images, {options.epochs} epochs, seed {options.seed}")
    for name, dynamic in (("nnx.Conv", False), ("DynamicConv", True)):
        start = time.monotonic()
        model = trained(dynamic, images, labels, options.epochs, options.seed)
        cost = count_macs(model, images.shape[1:])
        predictions = jnp.argmax(nnx.jit(Network.__call__)(model, test_images), axis=-1)
        print(
            f"{name:11}: {cost.parameters:6,} parameters, {cost.total:7,} multiply-adds, "
            f"test accuracy {100 * np.mean(predictions == test_labels):.2f} % ({time.monotonic() - start:.0f} s)"
        )


if __name__ == "__main__":
    sys.exit(report_mistakes("own_network_nnx.py", main))
