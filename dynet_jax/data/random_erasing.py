"""Random erasing (Zhong et al., 2020): a rectangle of a training image becomes noise."""

import math

import numpy as np

AREA, RATIO = (0.02, 0.33), (0.3, 3.3)  # of the rectangle, the paper's values
TRIED = 10


def random_erasing(image: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Returns [height, width, 3] uint8 that has, with this probability, a rectangle of random pixels.

    The rectangle covers 2 to 33 % of the area, with an aspect ratio of 0.3 to 3.3, and lies inside. If none of ten
    fits, as in a very narrow image, the image is unchanged.

    >>> (random_erasing(np.zeros((20, 20, 3), np.uint8), np.random.default_rng(0), 1.0) > 0).any()
    np.True_
    """
    if rng.random() >= probability:
        return image
    height, width = image.shape[:2]
    for _ in range(TRIED):
        area = rng.uniform(*AREA) * height * width
        ratio = math.exp(rng.uniform(*np.log(RATIO)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            image = image.copy()
            image[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3), np.uint8)
            return image
    return image
