"""From logits of a network's resolution to the class of every pixel of a picture."""

from collections.abc import Sequence

import cv2
import numpy as np


def enlarged_classes(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[height, width, classes] logits -> the best class of every pixel of that size, (height, width), uint8."""
    best, classes = None, np.zeros(tuple(size), np.uint8)
    for index in range(maps.shape[-1]):  # one after another: all classes of a large image would be gigabytes
        scores = cv2.resize(np.ascontiguousarray(maps[..., index]), tuple(size)[::-1])
        if best is None:
            best = scores
        classes[scores > best] = index
        best = np.maximum(best, scores)
    return classes
