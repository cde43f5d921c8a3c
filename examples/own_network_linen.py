"""Puts DynamicConv into a Linen network of your own, and trains it on the digits that come with scikit-learn.

    python examples/own_network_linen.py [--epochs=20] [--seed=0] [--export=FILE]

The network is trained twice, with `nn.Conv` and with `DynamicConv`, all else alike. Both take about a minute on
two CPU cores. The dynamic one is exported: FILE ends with .onnx, or with .stablehlo.
"""

import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynet_jax import CoefficientPredictor, DynamicConv
from dynet_jax.analysis import count_macs
from dynet_jax.arguments import Parser, report_mistakes
from dynet_jax.data import load_source
from dynet_jax.errors import UserError
from dynet_jax.export.formats import export_format
from dynet_jax.inference import InferenceModel, Preprocessing, program_of

BATCH = 64


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut. If dynamic, one predictor on the block's input serves both."""

    features: int
    dynamic: bool

    @nn.compact
    def __call__(self, x):
        y = x
        if self.dynamic:
            coefficients = CoefficientPredictor((self.features, self.features), group_size=6)(x)
        for index in range(2):
            y = nn.relu(nn.GroupNorm(num_groups=4)(y))
            if self.dynamic:
                y = DynamicConv(self.features, (3, 3), group_size=6)(y, coefficients[index])
            else:
                y = nn.Conv(self.features, (3, 3))(y)
        return x + y


class Network(nn.Module):
    """A stem, two blocks with a pooling between them, and a classifier."""

    dynamic: bool
    features: int = 12

    @nn.compact
    def __call__(self, x, train: bool = False):  # count_macs gives `train`
        x = x[..., :1]  # exported files take colour images; of those, one channel
        x = nn.Conv(self.features, (3, 3), name="stem")(x)
        x = Block(self.features, self.dynamic)(x)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = Block(self.features, self.dynamic)(x)
        return nn.Dense(10, name="classifier")(x.mean((1, 2)))


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n, 8, 8, 1] from -1 to 1, and labels. Every fifth image is a test image."""
    source = load_source("digits", split)
    return source.images[..., None].astype(np.float32) / 127.5 - 1, source.labels


def trained(model: nn.Module, images, labels, epochs: int, seed: int) -> dict:
    """Returns the variables of the network after the given number of epochs of Adam."""
    variables = jax.jit(model.init)(jax.random.key(seed), images[:1])
    steps_per_epoch = len(images) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, epochs * steps_per_epoch))
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, images, labels):
        def loss(variables):
            logits = model.apply(variables, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in rng.permutation(len(images))[: steps_per_epoch * BATCH].reshape(-1, BATCH):
            variables, state = step(variables, state, images[batch], labels[batch])
    return variables


def export(path: Path, model: nn.Module, variables: dict) -> None:
    """Writes the network as one file, for uint8 images [batch, height, width, 3] of any size."""
    preprocessing = Preprocessing(8, 8, mean=(127.5,) * 3, std=(127.5,) * 3)  # as in `digits`
    network = InferenceModel(program_of(model, variables, image_size=8), preprocessing, runtime="jax")
    path.write_bytes(export_format(path.suffix.removeprefix(".")).write(network, "digits"))


def main() -> None:
    parser = Parser(prog="own_network_linen.py", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.epochs < 1:
        raise UserError(f"--epochs must be at least 1, not {options.epochs}")
    images, labels = digits("train")
    test_images, test_labels = digits("test")
    print(f"{len(images)} training and {len(test_images)} test images, {options.epochs} epochs, seed {options.seed}")
    for name, dynamic in (("nn.Conv", False), ("DynamicConv", True)):
        start, model = time.monotonic(), Network(dynamic)
        cost = count_macs(model, images.shape[1:])
        variables = trained(model, images, labels, options.epochs, options.seed)
        predictions = jnp.argmax(jax.jit(model.apply)(variables, test_images), axis=-1)
        print(
            f"{name:11}: {cost.parameters:6,} parameters, {cost.total:7,} multiply-adds, "
            f"test accuracy {100 * np.mean(predictions == test_labels):.2f} % ({time.monotonic() - start:.0f} s)"
        )
    if options.export:
        export(options.export, model, variables)
        print(f"{options.export}: {options.export.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(report_mistakes("own_network_linen.py", main))
