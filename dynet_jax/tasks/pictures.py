"""Class maps of whole images, and pictures of them."""

from collections.abc import Callable, Sequence

import cv2
import flax.linen as nn
import jax
import numpy as np

from dynet_jax.data.augment import resize
from dynet_jax.data.class_maps import enlarged_classes
from dynet_jax.data.corrupt import Damage
from dynet_jax.data.loading import read_record
from dynet_jax.data.record import Source
from dynet_jax.ops.pixels import normalize
from dynet_jax.tasks.overlay import overlay

Segmenter = Callable[[dict, np.ndarray], np.ndarray]


def make_segmenter(logits_of: Callable, size: Sequence[int], model: nn.Module, *, mean, std) -> Segmenter:
    """Returns a function (variables, image [height, width, 3] uint8) -> its class map [height, width] uint8.

    It uses one device.
    logits_of: (network, normalised images) -> logits of any resolution, as `Segmentation.logits`.
    size: (height, width) to which images are resized.
    """

    @jax.jit
    def logits(variables, images):
        return logits_of(lambda images: model.apply(variables, images, train=False), normalize(images, mean, std))

    def segment(variables: dict, image: np.ndarray) -> np.ndarray:
        maps = np.asarray(logits(variables, resize(image, *size)[None]))[0]
        return enlarged_classes(maps, image.shape[:2])

    return segment


def illustrate(
    segment: Segmenter, variables: dict, source: Source, class_names: Sequence[str], count: int
) -> dict[str, np.ndarray]:
    """Returns pictures of a source's first readable images, {name: the prediction above the label}."""
    pictures = {}
    for index in range(min(count, len(source))):
        record = read_record(source, index)
        if isinstance(record, Damage):
            continue
        predicted = overlay(record.image, segment(variables, record.image), class_names)
        wanted = overlay(record.image, record.label, class_names)
        height = max(len(predicted), len(wanted))
        both = [cv2.copyMakeBorder(p, 0, height - len(p), 0, 0, cv2.BORDER_CONSTANT) for p in (predicted, wanted)]
        pictures[f"test/{index}"] = np.vstack(both)
    return pictures
