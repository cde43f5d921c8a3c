"""Pictures for the tests, and their files."""

import io

import numpy as np
from PIL import Image

JPEG_END = b"\xff\xd9"


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    return saved(Image.fromarray(pixels, mode), kind, **options)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    """Three different gradients: JPEG keeps them within a few grey levels, if the channels are in the right order."""
    y, x = np.mgrid[: 1 : height * 1j, : 1 : width * 1j]
    return np.round(np.stack([255 * y, 255 * x, 200 - 180 * y], axis=-1)).astype(np.uint8)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Gradients under noise: a JPEG of many bytes, like a photograph's."""
    noise = np.random.default_rng(seed).normal(0, 25, (height, width, 3))
    return np.clip(smooth(height, width) + noise, 0, 255).astype(np.uint8)


def blank_image(size: int) -> dict[str, np.ndarray]:
    """The example of a classifier's evaluation that does not count."""
    return {"image": np.zeros((size, size, 3), np.uint8), "label": np.int32(0)}
