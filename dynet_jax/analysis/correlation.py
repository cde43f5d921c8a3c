"""Fig. 2 and 6: Pearson's correlation between the feature maps of a layer, over all images and positions."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from dynet_jax.analysis.feature_maps import check_layers, default_layer, list_layers, make_feature_maps
from dynet_jax.analysis.trained import Say, Trained, open_trained
from dynet_jax.errors import UserError

# The paper has the classes strong, middle, weak and none, without limits; these are Cohen's conventional ones (1988).
STRONG, MIDDLE, WEAK = 0.5, 0.3, 0.1
FEW = (-0.1, 0.2)  # the interval that, in the paper, holds more of the dynamic network's values (Fig. 6)
HISTOGRAM_BINS = 100
EDGES = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
VALUES_AT_ONCE = 1 << 22  # in float64, because the maps of early layers are large


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Statistics of the correlations between a layer's channels. Shares are of the pairs, and None without pairs.

    Attributes:
      channels: number of channels of the layer.
      dead: number of channels that are constant; they have no correlation, and belong to no pair.
      images, positions: numbers that the correlations are over; a position is one pixel of one image's map.
      pairs: n (n - 1) / 2 for the n channels that are not dead.
      histogram: numbers of pairs in each of `HISTOGRAM_BINS` equal parts of [-1, 1].
      strong, middle, weak, none: shares of |r| from 0.5 up, from 0.3, from 0.1, and below (Cohen's limits; the paper
        does not state its own).
      mean_magnitude: the mean of |r|.
      within: the share of r in [-0.1, 0.2], the interval that the paper names for Fig. 6.

    >>> rng = np.random.default_rng(0)
    >>> stream = CorrelationStream()
    >>> stream.update(rng.normal(size=(16, 8, 8, 3)))
    >>> summary = stream.summary()
    >>> summary.pairs, summary.none, Correlation.from_dict(summary.to_dict()) == summary
    (3, 1.0, True)
    """

    channels: int
    dead: int
    images: int
    positions: int
    pairs: int
    histogram: tuple[int, ...]
    strong: float | None
    middle: float | None
    weak: float | None
    none: float | None
    mean_magnitude: float | None
    within: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values by the names of the attributes, for JSON."""
        return dataclasses.asdict(self) | {"histogram": list(self.histogram)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Correlation":
        """Returns the statistics that `to_dict` converted."""
        return cls(**values | {"histogram": tuple(values["histogram"])})


class CorrelationStream:
    """The correlation of a layer's channels from batches, exactly as if all maps were available at once.

    Means and products of deviations are kept in float64, and those of two parts are merged by the rule of Chan, Golub
    and LeVeque (1979), because sums of squares would lose all digits if a mean is large compared with its deviation.
    """

    def __init__(self):
        self.images = self.positions = 0
        self._mean = self._products = self._low = self._high = np.zeros(0)

    def update(self, maps: np.ndarray) -> None:
        """Adds maps, [batch, height, width, channels]. Raises UserError for values that are not finite."""
        values = maps.reshape(-1, maps.shape[-1])
        rows = max(1, VALUES_AT_ONCE // maps.shape[-1])
        for start in range(0, len(values), rows):
            self._add(np.asarray(values[start : start + rows], np.float64))
        self.images += len(maps)

    def _add(self, values: np.ndarray) -> None:
        low, high = values.min(axis=0), values.max(axis=0)
        if not np.isfinite(low).all() or not np.isfinite(high).all():
            raise UserError("feature maps are not finite, so they have no correlation")
        mean = values.mean(axis=0)
        values = values - mean
        products = values.T @ values
        if not self.positions:
            self._mean, self._products, self._low, self._high = mean, products, low, high
        else:
            step = mean - self._mean
            total = self.positions + len(values)
            self._products += products + np.outer(step, step) * (self.positions * len(values) / total)
            self._mean += step * (len(values) / total)
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self.positions += len(values)

    def matrix(self) -> np.ndarray:
        """Returns [channels, channels], NaN for dead channels. Raises UserError before the first update."""
        if not self.positions:
            raise UserError("there are no feature maps, since none of the images can be used")
        deviation = np.where(self._low == self._high, np.nan, np.sqrt(np.diag(self._products)))
        return np.clip(self._products / np.outer(deviation, deviation), -1, 1)

    def values(self) -> np.ndarray:
        """Returns r of every pair of channels that are not dead, [pairs], each pair once."""
        matrix = self.matrix()
        values = matrix[np.triu_indices(len(matrix), 1)]
        return values[~np.isnan(values)]

    def summary(self) -> Correlation:
        """Returns the statistics of the values."""
        values = self.values()
        size = np.abs(values)

        def share(of_them) -> float | None:
            return float(np.mean(of_them)) if len(values) else None

        return Correlation(
            channels=len(self._low),
            dead=int(np.sum(self._low == self._high)),
            images=self.images,
            positions=self.positions,
            pairs=len(values),
            histogram=tuple(np.histogram(values, EDGES)[0].tolist()),
            strong=share(size >= STRONG),
            middle=share((size >= MIDDLE) & (size < STRONG)),
            weak=share((size >= WEAK) & (size < MIDDLE)),
            none=share(size < WEAK),
            mean_magnitude=share(size),
            within=share((values >= FEW[0]) & (values <= FEW[1])),
        )


def correlate(
    model: nn.Module, variables: dict, batches: Iterable[dict[str, np.ndarray]], layers: Sequence[str]
) -> dict[str, CorrelationStream]:
    """Returns the correlations of these layers over all images, as in Fig. 6, for any network.

    Args:
      model: a network in Linen, called with the keywords of `dynet_jax.layers.call_options`.
      batches: dicts with 'image' [batch, height, width, 3], normalised, and optionally 'mask' [batch], 0 for examples
        that do not count.
      layers: names of `dynet_jax.analysis.feature_maps.list_layers`.
    """
    feature_maps, streams = make_feature_maps(model, layers), {layer: CorrelationStream() for layer in layers}
    for batch in batches:
        counts = np.asarray(batch.get("mask", np.ones(len(batch["image"])))) > 0
        for layer, maps in feature_maps(variables, batch["image"]).items():
            streams[layer].update(np.asarray(maps)[counts])
    return streams


def correlate_workdir(
    workdir: Path,
    layers: Sequence[str] | None = None,
    *,
    images: int | None = None,
    step: int | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    say: Say | None = None,
) -> dict[str, Correlation]:
    """Returns {layer: its correlations} of a trained network, on its test set or another dataset's.

    layers: names; None for the second-last stage (Fig. 6). The other arguments are those of `open_trained`; `say` is
    called with the progress. Raises UserError for an unknown layer, and as `open_trained` does.
    """
    trained = open_trained(workdir, images=images, step=step, data=data, data_dir=data_dir)
    return correlate_trained(trained, layers, say)


def correlate_trained(
    trained: Trained, layers: Sequence[str] | None = None, say: Say | None = None
) -> dict[str, Correlation]:
    """Returns the result of `correlate_workdir` for an opened network."""
    layers = choose_layers(trained, layers)
    streams = correlate(trained.model, trained.variables, trained.batches(say), layers)
    return {layer: stream.summary() for layer, stream in streams.items()}


def choose_layers(trained: Trained, layers: Sequence[str] | None) -> list[str]:
    """Returns these layers, or the second-last stage for None. Raises UserError for an unknown layer."""
    known = list_layers(trained.model, trained.variables, trained.image_shape)
    layers = layers or [default_layer(trained.model, known)]
    check_layers(layers, known)
    return list(layers)
