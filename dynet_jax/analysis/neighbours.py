"""The images that a dynamic network treats alike: nearest neighbours by their coefficients."""

import dataclasses
from typing import Any

import numpy as np

from dynet_jax.analysis.coefficients import Coefficients
from dynet_jax.errors import UserError

ROWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest images of every image, in the space of all layers' coefficients.

    Attributes:
      order: [images, k], the nearest first; positions in the `Coefficients`.
      distances: [images, k], Euclidean, of coefficients that are standardised over the images, divided by the root of
        their number, so that two unrelated images are about 1.4 apart.
      same_class: the share of images, from 0 to 1, whose nearest image has the same class.
      chance: the same share for another image chosen at random. Both are None without labels.
    """

    order: np.ndarray
    distances: np.ndarray
    same_class: float | None
    chance: float | None

    def to_dict(self, queries: list[int] | None = None) -> dict[str, Any]:
        """Returns values for JSON: 'same_class', 'chance', and order and distances of the queries (default: all)."""
        rows = list(range(len(self.order))) if queries is None else queries
        return {
            "same_class": self.same_class,
            "chance": self.chance,
            "queries": rows,
            "order": self.order[rows].tolist(),
            "distances": self.distances[rows].tolist(),
        }


def nearest_images(coefficients: Coefficients, k: int = 5) -> Neighbours:
    """Returns the k nearest images of every image, without itself. Raises UserError if there are not enough images.

    Coefficients that are the same for all images are left out.

    >>> values = np.asarray([0.1, 0.2, 0.8, 0.95], np.float32).reshape(4, 1, 1)
    >>> near = nearest_images(Coefficients({"conv": values}, np.asarray([0, 0, 1, 1]), np.arange(4)), k=1)
    >>> near.order[:, 0].tolist(), near.same_class, round(near.chance, 3)
    ([1, 0, 3, 2], 1.0, 0.333)
    """
    count = len(coefficients)
    if not 0 < k < count:
        raise UserError(f"{k} nearest of {count} images cannot be found: ask for 1 to {count - 1}")
    points = _standardized(coefficients)
    order, distances = np.empty((count, k), int), np.empty((count, k))
    norms = np.sum(points**2, axis=1)
    for start in range(0, count, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, count))
        squares = norms[rows, None] + norms - 2 * points[rows] @ points.T
        squares[np.arange(len(rows)), rows] = np.inf
        order[rows] = np.argsort(squares, axis=1, kind="stable")[:, :k]
        near = np.maximum(0, np.take_along_axis(squares, order[rows], axis=1))
        distances[rows] = np.sqrt(near / max(1, points.shape[1]))
    labels = coefficients.labels
    if labels is None:
        return Neighbours(order, distances, None, None)
    sizes = np.unique(labels, return_counts=True)[1]
    chance = float(np.sum(sizes * (sizes - 1)) / (count * (count - 1)))
    return Neighbours(order, distances, float(np.mean(labels[order[:, 0]] == labels)), chance)


def choose_queries(labels: np.ndarray | None, count: int) -> list[int]:
    """Returns positions of `count` images of as many classes as possible: the first of each class, then the second ...

    Without labels (None), these are the first images.

    >>> choose_queries(np.asarray([1, 1, 0, 2]), 3)
    [2, 0, 3]
    """
    if labels is None:
        return list(range(count))
    turns = np.empty(len(labels), int)  # the number of earlier images of the same class
    for label in np.unique(labels):
        turns[labels == label] = np.arange(np.sum(labels == label))
    return np.lexsort((labels, turns))[:count].tolist()


def _standardized(coefficients: Coefficients) -> np.ndarray:
    """Returns [images, coefficients that vary], each of mean 0 and deviation 1."""
    parts = []
    for values in coefficients.layers.values():
        flat = values.reshape(len(values), -1).astype(np.float64)
        flat = flat - flat.mean(axis=0)
        deviation = flat.std(axis=0)
        varies = deviation > 1e-7  # above the rounding of values in [0, 1]
        parts.append((flat[:, varies] / deviation[varies]).astype(np.float32))
    return np.concatenate(parts, axis=1)
