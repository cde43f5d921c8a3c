"""Maps of classes: enlarged to a label's size, scored pixel by pixel, or put together from overlapping windows."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Float32, Int32, Integer, Shaped

from dynet_jax.ops.maps import Operand

Size = Sequence[int] | Integer[Operand, "2"]


def resize_maps(
    maps: Shaped[Operand, "batch height width channels"], size: Size, canvas: Sequence[int] | None = None
) -> Float32[Array, "batch rows columns channels"]:
    """Bilinear, with pixels' centres as PyTorch's `align_corners=False` has them; an image may also shrink.

    Args:
      size: (height, width) of the result; they may be traced, if there is a canvas.
      canvas: (height, width) of the result's array if they are, whose rows and columns behind `size` mean nothing.

    >>> resize_maps(jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    rows, columns = (
        _weights(inputs, outputs, n) for inputs, outputs, n in zip(maps.shape[1:3], canvas or size, size, strict=True)
    )
    # In the precision of the maps: bfloat16 products would decide ties between classes anew.
    maps = jnp.einsum("jw,bhwc->bhjc", columns, maps.astype(jnp.float32), precision="highest")
    return jnp.einsum("ih,bhjc->bijc", rows, maps, precision="highest")


def _weights(inputs: int, outputs: int, size: ArrayLike) -> Float32[Array, "{outputs} {inputs}"]:
    """Returns what each of the first `size` results takes of each input."""
    places = (jnp.arange(outputs) + 0.5) * (inputs / jnp.asarray(size, jnp.float32)) - 0.5
    places = jnp.clip(places, 0, inputs - 1)
    return jnp.maximum(0.0, 1 - jnp.abs(places[:, None] - jnp.arange(inputs)))


def pixel_cross_entropy(
    logits: Float[Operand, "*pixels classes"], labels: Integer[Operand, "*pixels"], ignored: int
) -> Float[Array, "*pixels"]:
    """Returns the cross entropy of every pixel, 0 where the label is `ignored`."""
    counts = labels != ignored
    target = jax.nn.one_hot(jnp.where(counts, labels, 0), logits.shape[-1])
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * target, axis=-1)
    return jnp.where(counts, losses, 0.0)


def confusion_matrix(
    predictions: Integer[Operand, "*pixels"], labels: Integer[Operand, "*pixels"], classes: int, ignored: int
) -> Int32[Array, "{classes} {classes}"]:
    """Returns how many pixels of each class (row) were taken for each class (column).

    Exact for up to 2^24 pixels of a pair.
    """
    labels = jnp.where(labels == ignored, -1, labels.astype(jnp.int32)).ravel()  # one_hot of -1 is all zeros
    rows, columns = (jax.nn.one_hot(v, classes, dtype=jnp.bfloat16) for v in (labels, predictions.ravel()))
    counts = jnp.einsum("pi,pj->ij", rows, columns, preferred_element_type=jnp.float32)
    return jnp.round(counts).astype(jnp.int32)


def intersection_over_union(confusion: Shaped[np.ndarray, "classes classes"]) -> Float[np.ndarray, " classes"]:
    """Returns that of each class: NaN for a class that neither labels nor predictions have."""
    both, either = np.diagonal(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.where(either > 0, both / np.maximum(1, either - both), np.nan)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows of a side begin, so that they cover it; the last one ends with it.

    >>> window_starts(10, 4, 3), window_starts(4, 4, 3)
    ([0, 3, 6], [0])
    >>> window_starts(11, 4, 3)
    [0, 3, 6, 7]
    """
    if window >= length:
        return [0]
    return [*range(0, length - window, stride), length - window]


def window_strides(window: Sequence[int]) -> list[int]:
    """Returns how far apart windows of that size are: two thirds of it.

    >>> window_strides((512, 768))
    [341, 512]
    """
    return [max(1, 2 * side // 3) for side in window]


def sliding_windows(
    apply: Callable[[Array], Array],
    images: Shaped[Operand, "batch height width channels"],
    window: Sequence[int],
    stride: Sequence[int],
) -> Float[Array, "batch height width classes"]:
    """Returns logits of whole images as the mean over the windows that hold a pixel.

    apply: images [batch, *window, 3] -> logits of any resolution, which are enlarged to the window.
    A window that is larger than the image is cut to it.
    """
    size = images.shape[1:3]
    window = [min(pair) for pair in zip(window, size)]
    tops, lefts = (window_starts(*sides) for sides in zip(size, window, stride))
    corners = [(top, left) for top in tops for left in lefts]

    def maps_of(corner):
        return apply(lax.dynamic_slice(images, (0, *corner, 0), (len(images), *window, images.shape[-1])))

    parts = lax.map(maps_of, jnp.asarray(corners))  # at the network's resolution: enlarged, they would fill the memory

    def mean_of(parts):  # of one image: [windows, height, width, classes]
        total, counts = 0.0, np.zeros((*size, 1), np.float32)
        for part, (top, left) in zip(parts, corners):
            end = (size[0] - top - window[0], size[1] - left - window[1])
            total += jnp.pad(resize_maps(part[None], window)[0], ((top, end[0]), (left, end[1]), (0, 0)))
            counts[top : top + window[0], left : left + window[1]] += 1
        return total / counts

    return lax.map(mean_of, jnp.moveaxis(parts, 0, 1))
