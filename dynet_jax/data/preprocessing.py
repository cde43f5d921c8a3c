"""From an image of any size to a trained network's input, as in its evaluation, with a description for others."""

from typing import Any, NamedTuple

import numpy as np

from dynet_jax.data.augment import center_crop, resize

INTERPOLATION = "area where an image shrinks, bilinear where it grows"


class Preprocessing(NamedTuple):
    """A classifier's: the shorter side is resized to `resize_to`, and the central `image_size` square is cropped.

    mean, std: of the pixels of each channel, in units of 0..255.

    >>> Preprocessing(8, 10, (127.5,) * 3, (127.5,) * 3)(np.zeros((30, 20, 3), np.uint8)).shape
    (8, 8, 3)
    """

    image_size: int
    resize_to: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns [image_size, image_size, 3] uint8 for [height, width, 3] uint8."""
        return np.ascontiguousarray(center_crop(image, self.image_size, self.resize_to))

    def describe(self) -> dict[str, Any]:
        """Returns a description for an exported file. mean and std are informative: the network normalises itself."""
        sizes = {"resize_to": self.resize_to, "image_size": self.image_size}
        return sizes | {"interpolation": INTERPOLATION} | _described(self.mean, self.std)


class ResizedPreprocessing(NamedTuple):
    """A segmentation network's: images are resized to one size.

    Attributes:
      size: (height, width).
      mean, std: of the pixels of each channel, in units of 0..255.
      window: (height, width) of the sliding windows whose logits are averaged; None for whole images.

    >>> ResizedPreprocessing((16, 24), (127.5,) * 3, (127.5,) * 3)(np.zeros((30, 20, 3), np.uint8)).shape
    (16, 24, 3)
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns [*size, 3] uint8 for [height, width, 3] uint8."""
        return np.ascontiguousarray(resize(image, *self.size))

    def describe(self) -> dict[str, Any]:
        """Returns a description, see `Preprocessing.describe`."""
        return {"size": list(self.size), "interpolation": INTERPOLATION} | _described(self.mean, self.std)


def _described(mean, std) -> dict[str, list[float]]:
    return {"mean": list(map(float, mean)), "std": list(map(float, std))}
