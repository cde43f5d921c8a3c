"""What a network says of pictures: the most probable classes of each, or the class of every pixel."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from dynet_jax.data.class_maps import enlarged_classes
from dynet_jax.data.preprocessing import ResizedPreprocessing
from dynet_jax.inference.pictures import Ready
from dynet_jax.memory import images_at_once
from dynet_jax.ops.segmentation import resize_maps, window_starts, window_strides

IMAGES_AT_ONCE = 32
Logits = Callable[[np.ndarray], np.ndarray]


class Prediction(NamedTuple):
    """The result for one image, or why there is none. `path` is None unless it was read from a file.

    Attributes:
      top: of a classifier, the most probable classes, best first.
      image, classes: of a network for segmentation, the image as it was, and the class of every pixel.
    """

    path: Path | None
    top: list[tuple[str, float]]
    error: str | None = None
    image: UInt8[np.ndarray, "height width 3"] | None = None
    classes: UInt8[np.ndarray, "height width"] | None = None


def classify(
    logits: Logits,
    pictures: Iterable[Ready],
    class_names: Sequence[str],
    count: int,
    *,
    padded: bool,
    batch: int | None = None,
) -> Iterator[Prediction]:
    """The `count` most probable classes of each picture, in their order.

    batch: how many the network is given at once; None is as many as a device of any size has memory for.
    padded: whether batches are filled up to the size of the first one, where each size is compiled.
    """
    largest = 0
    for together in _batched(pictures, batch):
        good = [picture.prepared for picture in together if picture.prepared is not None]
        largest = max(largest, len(together))
        probabilities = iter(())
        if good:
            images = np.zeros((largest if padded else len(good), *good[0].shape), np.uint8)
            images[: len(good)] = good
            probabilities = iter(softmax(logits(images)))
        for picture in together:
            if picture.error is not None:
                yield Prediction(picture.path, [], picture.error)
                continue
            p = next(probabilities)
            if not np.isfinite(p).all():
                yield Prediction(picture.path, [], _not_finite(picture))
                continue
            names = class_names or list(map(str, range(len(p))))
            best = np.argsort(-p[: len(names)], kind="stable")[:count]
            yield Prediction(picture.path, [(names[i], float(p[i])) for i in best])


def segment(logits: Logits, pictures: Iterable[Ready], preprocessing: ResizedPreprocessing) -> Iterator[Prediction]:
    """The map of classes of each picture, of the picture's own size, in their order."""
    for picture in pictures:
        image = picture.image
        if image is None or picture.prepared is None:
            yield Prediction(picture.path, [], picture.error)
            continue
        maps = _maps(logits, picture.prepared, preprocessing.window)
        if not np.isfinite(maps).all():
            yield Prediction(picture.path, [], _not_finite(picture))
            continue
        yield Prediction(picture.path, [], image=image, classes=enlarged_classes(maps, image.shape[:2]))


def _not_finite(picture: Ready) -> str:
    return (
        f"the network's outputs for {picture.path or 'the image'} are not finite: its weights are damaged or have "
        "diverged; take another checkpoint by --step, or import them again"
    )


def softmax(logits: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Returns the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _maps(logits: Logits, image: np.ndarray, window: Sequence[int] | None) -> np.ndarray:
    """Logits of an image [height, width, 3], as the mean of windows where there are some (see `sliding_windows`)."""
    if window is None:
        return logits(image[None])[0]
    size = image.shape[:2]
    window = [min(pair) for pair in zip(window, size)]
    starts = (window_starts(*sides) for sides in zip(size, window, window_strides(window)))
    total, counts = None, np.zeros((*size, 1), np.float32)
    for top, left in itertools.product(*starts):
        place = slice(top, top + window[0]), slice(left, left + window[1])
        part = np.asarray(_resized(logits(image[place][None]), tuple(window)))[0]
        total = np.zeros((*size, part.shape[-1]), np.float32) if total is None else total
        total[place] += part
        counts[place] += 1
    return total / counts


_resized = jax.jit(resize_maps, static_argnums=1)


def _batched(pictures: Iterable[Ready], batch: int | None) -> Iterator[tuple[Ready, ...]]:
    pictures = iter(pictures)
    for first in pictures:
        if batch is None and first.prepared is not None:  # all that a classifier is given are of one size
            batch = images_at_once(first.prepared.shape, IMAGES_AT_ONCE)
        yield (first, *itertools.islice(pictures, (batch or 1) - 1))
