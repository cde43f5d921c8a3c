"""From an image to the square uint8 image that the network sees, by OpenCV. Training and testing share `resize`."""

import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from dynet_jax.data.decode import decode
from dynet_jax.data.partial import PartialJpeg, open_image
from dynet_jax.data.random_erasing import random_erasing
from dynet_jax.data.record import Arrays, Record
from dynet_jax.data.trivial_augment import trivial_augment
from dynet_jax.errors import UserError, suggest


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the image in another size: area averaging to shrink, bilinear to enlarge, so no aliasing or overshoot."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def center_crop(image: np.ndarray | PartialJpeg, size: int, resize_to: int) -> np.ndarray:
    """Returns ImageNet's test crop: the shorter side resized to `resize_to`, the central size x size pixels."""
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    scale = resize_to / min(height, width)
    image = resize(image, max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def _without_far_ends(image: np.ndarray | PartialJpeg, shape: int = 8) -> np.ndarray:
    """Returns an image at most `shape` times as long as wide: 1 x 60,000 pixels would be resized to gigabytes."""
    height, width = image.shape[:2]
    h, w = min(height, shape * width), min(width, shape * height)
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def random_resized_crop(
    image: np.ndarray | PartialJpeg, rng: np.random.Generator, size: int, min_area: float = 0.08, fast: bool = False
) -> np.ndarray:
    """Returns a random region of `min_area` to 1 of the area, aspect ratio 3:4 to 4:3, resized to size x size.

    fast: the region is resized by `fast_resize`.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = rng.uniform(min_area, 1.0) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            region = image[top : top + h, left : left + w]
            return (fast_resize if fast else resize)(region, size, size)
    return center_crop(image, size, size)


def fast_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns nearly what `resize` does, in less than half of the time: a grey level apart on average of photographs.

    If it shrinks an image by at most 2, a pixel is the mean of four points, interpolated bilinearly.
    """
    h, w = image.shape[:2]
    if height * width < h * w and h <= 2 * height and w <= 2 * width:
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)  # its 2x2 means are quick
    return resize(image, height, width)


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


class TrainingTransform:
    """A function (record, rng) -> the arrays of a training example, see `make_training_transform`.

    Attributes:
      open_image: from the bytes of a file to an image that `cut` takes; `TrainingLoader` calls it.
    """

    def __init__(self, size: int, cut: Callable, open_image: Callable, changes: Sequence[Callable], noise: bool):
        self._size, self._cut, self._changes, self._noise = size, cut, changes, noise
        self.open_image = open_image

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        image = self._cut(self.open_image(record.image, record.name), rng, self._size)
        for change in self._changes:
            image = change(image, rng)
        arrays: Arrays = {"image": np.ascontiguousarray(image), "label": np.int32(record.label)}
        return {**arrays, "noise": rng.integers(2**32, dtype=np.uint32)} if self._noise else arrays


def make_training_transform(
    size: int,
    crop: str,
    flip: bool,
    *,
    fast: bool = False,
    trivial: bool = False,
    erasing: float = 0.0,
    noise: bool = False,
) -> TrainingTransform:
    """Returns a function (record, rng) -> {'image': [size, size, 3] uint8, 'label': int32}.

    Args:
      crop: one of CROPS.
      flip: whether half of the images are mirrored.
      fast: whether random resized crops are resized by `fast_resize`; other crops are not affected.
      trivial: whether `trivial_augment` changes the images.
      erasing: probability of `random_erasing`.
      noise: whether the result has 'noise' uint32, a random number for what the training step draws.
    Raises UserError for an unknown crop; the function raises it if an image cannot be decoded.
    """
    if crop not in CROPS:
        raise UserError(f"unknown crop {crop!r}; {suggest(crop, CROPS)}")
    cut, open_ = CROPS[crop], decode
    if cut is random_resized_crop:
        cut, open_ = functools.partial(cut, fast=fast), open_image
    changes = [_mirrored] * flip + [trivial_augment] * trivial
    changes += [functools.partial(random_erasing, probability=erasing)] * (erasing > 0)
    return TrainingTransform(size, cut, open_, changes, noise)


def _mirrored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # twenty times as fast as copying the reversed view
    return cv2.flip(image, 1) if rng.random() < 0.5 else image


def make_test_transform(size: int, resize_to: int) -> Callable:
    """Returns a function record -> {'image', 'label'}, without randomness."""
    crop = functools.partial(center_crop, size=size, resize_to=resize_to)

    def transform(record):
        image = crop(decode(record.image, record.name))
        return {"image": np.ascontiguousarray(image), "label": np.int32(record.label)}

    return transform
