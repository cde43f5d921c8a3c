"""scikit-learn's handwritten digits, which are installed with it."""

from typing import Any

import numpy as np

from dynet_jax.data.record import ArraySource
from dynet_jax.data.source import register_dataset


@register_dataset("digits", like="digits")
def _open(split: str, data_dir: str | None) -> ArraySource:
    return ArraySource(*_digits(split), [str(digit) for digit in range(10)], f"digits/{split}")


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's 1,797 digits, 8x8. They have no official split: every fifth image is a test image."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    is_test = np.arange(len(images)) % 5 == 4
    chosen = is_test if split == "test" else ~is_test
    return images[chosen], digits.target[chosen]
