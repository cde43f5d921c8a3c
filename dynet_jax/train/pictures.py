"""Maps of classes for whole images, and pictures of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import flax.linen as nn
import jax
import numpy as np

from dynet_jax.analysis.overlay import overlay
from dynet_jax.data.augment import resize
from dynet_jax.data.decode import decode
from dynet_jax.data.record import Record, Source
from dynet_jax.errors import UserError
from dynet_jax.ops.pixels import normalize

if TYPE_CHECKING:
    from dynet_jax.train.segmentation import Segmentation

Segmenter = Callable[[dict, np.ndarray], np.ndarray]


def make_segmenter(task: "Segmentation", model: nn.Module, *, mean, std) -> Segmenter:
    """(variables, image [height, width, 3] uint8) -> its map of classes [height, width] uint8, on one device."""
    size = task.config.data.eval_size

    @jax.jit
    def logits(variables, images):
        return task.logits(lambda images: model.apply(variables, images, train=False), normalize(images, mean, std))

    def segment(variables: dict, image: np.ndarray) -> np.ndarray:
        maps = np.asarray(logits(variables, resize(image, *size)[None]))[0]
        best, classes = None, np.zeros(image.shape[:2], np.uint8)
        for index in range(maps.shape[-1]):  # one after another: all classes of a large image would be gigabytes
            scores = cv2.resize(np.ascontiguousarray(maps[..., index]), image.shape[1::-1])
            if best is None:
                best = scores
            classes[scores > best] = index
            best = np.maximum(best, scores)
        return classes

    return segment


def illustrate(
    segment: Segmenter, variables: dict, source: Source, class_names: Sequence[str], count: int
) -> dict[str, np.ndarray]:
    """Pictures of the first images of a source, {name: the prediction above the label}, for those that can be read."""
    pictures = {}
    for index in range(min(count, len(source))):
        try:
            record: Record = source[index]
            image, label = decode(record.image, record.name), record.label.decode()
        except (OSError, UserError):
            continue
        predicted = overlay(image, segment(variables, image), class_names)
        wanted = overlay(image, label, class_names)
        height = max(len(predicted), len(wanted))
        both = [cv2.copyMakeBorder(p, 0, height - len(p), 0, 0, cv2.BORDER_CONSTANT) for p in (predicted, wanted)]
        pictures[f"test/{index}"] = np.vstack(both)
    return pictures
