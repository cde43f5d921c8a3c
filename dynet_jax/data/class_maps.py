"""From logits at the network's resolution to the class of every pixel of an image."""

from collections.abc import Sequence

import cv2
import numpy as np


def enlarged_classes(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns the best class of every pixel, (height, width) of `size`, uint8, for logits [height, width, classes]."""
    best, classes = None, np.zeros(tuple(size), np.uint8)
    for index in range(maps.shape[-1]):  # class by class, since all classes of a large image would be gigabytes
        scores = cv2.resize(np.ascontiguousarray(maps[..., index]), tuple(size)[::-1])
        if best is None:
            best = scores
        classes[scores > best] = index
        best = np.maximum(best, scores)
    return classes
