"""TrivialAugment (Müller and Hutter, 2021, "wide") by Pillow: one random operation of a random strength per image."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

STRENGTHS = 31  # 0 to 30

_Operation = Callable[[Image.Image, float, int], Image.Image]  # of an image, a strength from 0 to 1, and a sign


def _affine(matrix: Callable[[float], tuple[float, ...]], largest: float) -> _Operation:
    return lambda image, strength, sign: image.transform(
        image.size, Image.Transform.AFFINE, matrix(sign * largest * strength), Image.Resampling.NEAREST
    )


def _enhanced(kind: Callable) -> _Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * 0.99 * strength)


# The operations of the paper's Table 1 with its wide ranges.
OPERATIONS: dict[str, _Operation] = {
    "identity": lambda image, strength, sign: image,
    "auto_contrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "rotate": lambda image, strength, sign: image.rotate(sign * 135 * strength),
    "solarize": lambda image, strength, sign: ImageOps.solarize(image, round(255 * (1 - strength)) + (strength == 0)),
    "posterize": lambda image, strength, sign: ImageOps.posterize(image, 8 - round(6 * strength)),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda by: (1, by, 0, 0, 1, 0), 0.99),
    "shear_y": _affine(lambda by: (1, 0, 0, by, 1, 0), 0.99),
    "translate_x": _affine(lambda by: (1, 0, by, 0, 1, 0), 32),
    "translate_y": _affine(lambda by: (1, 0, 0, 0, 1, by), 32),
}


def trivial_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns [height, width, 3] uint8 after one of OPERATIONS.

    All of them, 31 strengths, and both signs are equally likely.

    >>> trivial_augment(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 3)
    """
    name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
    strength, sign = rng.integers(STRENGTHS) / (STRENGTHS - 1), 1 - 2 * int(rng.integers(2))
    return applied(image, name, float(strength), sign)


def applied(image: np.ndarray, name: str, strength: float, sign: int) -> np.ndarray:
    """Returns [height, width, 3] uint8 after one of OPERATIONS, of a strength from 0 to 1, with a sign of 1 or -1."""
    return np.asarray(OPERATIONS[name](Image.fromarray(image), strength, sign))
