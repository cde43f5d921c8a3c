"""Statistics of a dynamic network's coefficients: their distribution, and their dependence on the image."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dynet_jax.analysis.trained import Say, Trained, open_trained
from dynet_jax.errors import UserError
from dynet_jax.layers.coefficients import predicted_coefficients
from dynet_jax.ops.maps import Operand

HISTOGRAM_BINS = 200
EDGES = np.linspace(0, 1, HISTOGRAM_BINS + 1)
IMAGES = 1000  # the coefficients of the large networks take a tenth of a megabyte per image


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The coefficients of every dynamic convolution for some images.

    Attributes:
      layers: {path of the convolution, like 'stage3_block1/spatial': [images, group_size, channels or 1] float32}, in
        the order in which they are computed.
      labels: [images], the classes; None if images have no single class.
      indices: [images], the position of each image among those that were examined.
    """

    layers: dict[str, np.ndarray]
    labels: np.ndarray | None
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


@dataclasses.dataclass(frozen=True)
class CoefficientSummary:
    """Statistics of the coefficients of one layer.

    Attributes:
      group_size, channels: of the layer; 1 channel if all channels share their coefficients.
      images, classes: numbers of images, and of classes that some image has.
      histogram: numbers of values in each of `HISTOGRAM_BINS` equal parts of [0, 1].
      mean, deviation: of all values.
      entropy: the mean entropy of the group_size coefficients of a channel, divided by their sum, relative to
        log(group_size): 1 if all fixed kernels have the same share, 0 if one has everything. None for a group of one,
        and if coefficients are negative or sum to 0.
      deviation_of_images: the standard deviation of a coefficient between images, averaged over coefficients.
      between_classes: eta squared, the share of the variance between images that is between classes.
      between_random_classes: its expectation for random labels, (classes - 1) / (images - 1).

    The last two are None without labels, and if nothing varies.
    """

    group_size: int
    channels: int
    images: int
    classes: int
    histogram: tuple[int, ...]
    mean: float
    deviation: float
    entropy: float | None
    deviation_of_images: float
    between_classes: float | None
    between_random_classes: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values by the names of the attributes, for JSON."""
        return dataclasses.asdict(self) | {"histogram": list(self.histogram)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CoefficientSummary":
        """Returns the summary that `to_dict` converted."""
        return cls(**values | {"histogram": tuple(values["histogram"])})


def make_coefficients(model: nn.Module) -> Callable[[dict, Operand], dict[str, jax.Array]]:
    """Returns a compiled (variables, normalised images) -> {layer: [batch, group_size, channels or 1] float32}.

    Names and order are those of `named_coefficients`.

    >>> import jax, jax.numpy as jnp
    >>> from dynet_jax import create_model
    >>> model, images = create_model("dy_mobile", width=0.1, small_input=True), jnp.ones((2, 16, 16, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> jax.eval_shape(make_coefficients(model), variables, images)["stage6_block1/spatial"].shape
    (2, 6, 18)
    """

    @jax.jit
    def coefficients(variables, images):
        # A list keeps the order of computation; JAX would sort a dictionary.
        return [(_Name(name), value) for name, value in predicted_coefficients(model, variables, images).items()]

    return lambda variables, images: {name.text: value for name, value in coefficients(variables, images)}


def gather_coefficients(
    model: nn.Module, variables: dict, batches: Iterable[dict[str, np.ndarray]], name: str = "the network"
) -> Coefficients:
    """Returns the coefficients of all dynamic convolutions for the images of the batches.

    Args:
      model: a network in Linen, called with the keywords of `dynet_jax.layers.call_options`.
      batches: dicts with 'image' [batch, height, width, 3], normalised; optionally 'label' [batch], 'mask' [batch],
        0 for examples that do not count, and 'index' [batch].
      name: name of the network, for the message.
    Raises:
      UserError: if the network is static, or there are no images.
    """
    compute, parts, labels, indices, seen = make_coefficients(model), {}, [], [], 0
    for batch in batches:
        size = len(batch["image"])
        counts = np.asarray(batch.get("mask", np.ones(size))) > 0
        for layer, values in compute(variables, batch["image"]).items():
            parts.setdefault(layer, []).append(np.asarray(values)[counts])
        if not parts:
            raise UserError(f"{name} is static: it has no coefficients; name a dynamic network, like dy_mobile")
        labels.append(np.asarray(batch["label"])[counts] if "label" in batch else None)
        indices.append(np.asarray(batch.get("index", seen + np.arange(size)))[counts])
        seen += size
    if not sum(map(len, indices)):
        raise UserError("there are no coefficients, since none of the images can be used")
    classes = None if any(part is None or part.ndim != 1 for part in labels) else np.concatenate(labels)
    return Coefficients(
        {layer: np.concatenate(values) for layer, values in parts.items()}, classes, np.concatenate(indices)
    )


def coefficients_of_workdir(
    workdir: Path,
    *,
    images: int | None = IMAGES,
    step: int | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    say: Say | None = None,
) -> tuple[Trained, Coefficients]:
    """Returns the result of `open_trained`, with the same arguments, and the network's coefficients.

    Raises UserError for a static network.
    """
    trained = open_trained(workdir, images=images, step=step, data=data, data_dir=data_dir)
    model = f"{trained.name} of {workdir}"
    return trained, gather_coefficients(trained.model, trained.variables, trained.batches(say), model)


def summarize_coefficients(coefficients: Coefficients) -> dict[str, CoefficientSummary]:
    """Returns {layer: statistics of its coefficients}, in the order of the layers.

    >>> values = np.asarray([[[0.5], [0.5]], [[1.0], [0.0]]])  # two images, two fixed kernels, one channel
    >>> summary = summarize_coefficients(Coefficients({"conv": values}, np.asarray([0, 1]), np.arange(2)))["conv"]
    >>> summary.mean, summary.entropy, summary.between_classes
    (0.5, 0.5, 1.0)
    """
    return {layer: _summarize(values, coefficients.labels) for layer, values in coefficients.layers.items()}


def between_classes(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns eta squared, the share of variance between classes, of values [images, ...]; None without variance.

    Sums of squares are added up over all values of an image.
    """
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    total = np.sum(flat**2)
    if total <= 1e-14 * flat.size:  # the rounding error of values in [0, 1]
        return None
    groups = (flat[labels == label] for label in np.unique(labels))
    return float(sum(len(group) * np.sum(group.mean(axis=0) ** 2) for group in groups) / total)


def _summarize(values: np.ndarray, labels: np.ndarray | None) -> CoefficientSummary:
    images, group_size, channels = values.shape
    values = values.astype(np.float64)
    classes = 0 if labels is None else len(np.unique(labels))
    between = None if labels is None else between_classes(values, labels)
    return CoefficientSummary(
        group_size=group_size,
        channels=channels,
        images=images,
        classes=classes,
        histogram=tuple(np.histogram(values, EDGES)[0].tolist()),
        mean=float(values.mean()),
        deviation=float(values.std()),
        entropy=_entropy(values),
        deviation_of_images=float(values.std(axis=0).mean()),
        between_classes=between,
        between_random_classes=None if between is None else (classes - 1) / (images - 1),
    )


def _entropy(values: np.ndarray) -> float | None:
    sums = values.sum(axis=1, keepdims=True)
    if values.shape[1] == 1 or values.min() < 0 or sums.min() == 0:
        return None
    shares = values / sums
    terms = -shares * np.log(np.where(shares > 0, shares, 1))
    return float(terms.sum(axis=1).mean() / np.log(values.shape[1]))


class _Name:
    """A text among the results of a compiled function: part of the pytree's structure, not a value."""

    def __init__(self, text: str):
        self.text = text


jax.tree_util.register_pytree_node(_Name, lambda name: ((), name.text), lambda text, _: _Name(text))
