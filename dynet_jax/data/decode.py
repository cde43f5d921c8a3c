"""From the bytes of an image file to RGB pixels, by OpenCV, with a check for damage that it does not detect."""

import io

import cv2
import numpy as np
from PIL import Image

from dynet_jax.data.jpeg_header import START, has_end
from dynet_jax.errors import UserError, one_line
from dynet_jax.memory import is_out_of_memory

cv2.setNumThreads(0)  # the pipeline has its own threads
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # images that cannot be decoded are reported here


def decode(image: np.ndarray | bytes, name: str = "image") -> np.ndarray:
    """Returns [height, width, 3] uint8 RGB from the bytes of an image file, with its EXIF rotation; arrays unchanged.

    The format is detected from the content, not the suffix: JPEG (also CMYK), PNG, WebP, BMP, TIFF, GIF (its first
    picture), of one to four channels, with a palette, or 16 bits deep. Transparency is dropped.
    Raises UserError, naming the image, if it cannot be decoded or is truncated.

    >>> decode(cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes()).shape
    (2, 3, 3)
    """
    if isinstance(image, np.ndarray):
        return image
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) if image else None
    except cv2.error as error:  # for example larger than OpenCV's limit
        if is_out_of_memory(error):
            raise MemoryError(f"{name}: {one_line(error)}") from error
        pixels = None
    if pixels is None:
        raise UserError(f"{name} is not an image that can be decoded ({len(image)} bytes); remove or replace it")
    if _lacks_its_end(image):
        raise UserError(f"{name} is a JPEG image with a damaged end ({len(image)} bytes); remove or replace it")
    return pixels


def _lacks_its_end(content: bytes) -> bool:
    """Returns whether the end of a JPEG file was overwritten: OpenCV decodes the wrong bytes, Pillow detects it.

    Only files that do not end with the end-of-image marker are decoded a second time. Files that continue after the
    marker (some cameras append data) are intact.
    """
    if not content.startswith(START) or has_end(content):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True
    return False
