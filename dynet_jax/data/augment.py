"""From an image to the square uint8 image that the network sees, by OpenCV. Training and testing share `resize`."""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

from dynet_jax.data.decode import decode
from dynet_jax.errors import UserError, suggest


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the image in another size: area averaging to shrink, bilinear to enlarge, so no aliasing or overshoot."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def center_crop(image: np.ndarray, size: int, resize_to: int) -> np.ndarray:
    """Returns ImageNet's test crop: the shorter side resized to `resize_to`, the central size x size pixels."""
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    scale = resize_to / min(height, width)
    image = resize(image, max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def _without_far_ends(image: np.ndarray, shape: int = 8) -> np.ndarray:
    """Returns an image at most `shape` times as long as wide: 1 x 60,000 pixels would be resized to gigabytes."""
    height, width = image.shape[:2]
    h, w = min(height, shape * width), min(width, shape * height)
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def random_resized_crop(image: np.ndarray, rng: np.random.Generator, size: int, min_area: float = 0.08) -> np.ndarray:
    """Returns a random region of `min_area` to 1 of the area, aspect ratio 3:4 to 4:3, resized to size x size."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = rng.uniform(min_area, 1.0) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return resize(image[top : top + h, left : left + w], size, size)
    return center_crop(image, size, size)


def random_shift(image: np.ndarray, rng: np.random.Generator, size: int, reach: float = 0.125) -> np.ndarray:
    """Returns the image, resized to size x size and shifted by up to `reach` with black fill: CIFAR's pad-and-crop."""
    pad = round(size * reach)
    image = cv2.copyMakeBorder(resize(image, size, size), pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    return image[top : top + size, left : left + size]


CROPS: dict[str, Callable] = {
    "random_resized_crop": random_resized_crop,
    "random_shift": random_shift,
    "none": lambda image, rng, size: center_crop(image, size, size),
}


def make_training_transform(size: int, crop: str, flip: bool) -> Callable:
    """Returns a function (record, rng) -> {'image': [size, size, 3] uint8, 'label': int32}.

    Raises UserError for an unknown crop.
    """
    if crop not in CROPS:
        raise UserError(f"unknown crop {crop!r}; {suggest(crop, CROPS)}")

    def transform(record, rng):
        image = CROPS[crop](decode(record.image, record.name), rng, size)
        if flip and rng.random() < 0.5:
            image = cv2.flip(image, 1)  # twenty times as fast as copying the reversed view
        return {"image": np.ascontiguousarray(image), "label": np.int32(record.label)}

    return transform


def make_test_transform(size: int, resize_to: int) -> Callable:
    """Returns a function record -> {'image', 'label'}, without randomness."""
    crop = functools.partial(center_crop, size=size, resize_to=resize_to)

    def transform(record):
        image = crop(decode(record.image, record.name))
        return {"image": np.ascontiguousarray(image), "label": np.int32(record.label)}

    return transform
