"""From the bytes of an image file to RGB pixels, by OpenCV; and the one kind of damage that it does not see."""

import io

import cv2
import numpy as np
from PIL import Image

from dynet_jax.errors import UserError, one_line
from dynet_jax.memory import is_out_of_memory

cv2.setNumThreads(0)  # the pipeline has threads of its own
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what cannot be decoded is reported here, by name

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


def decode(image: np.ndarray | bytes, name: str = "image") -> np.ndarray:
    """Bytes of an image file -> [height, width, 3] uint8 RGB, turned as its EXIF says. Arrays pass through.

    The content decides, not the name's suffix: JPEG (also CMYK), PNG, WebP, BMP, TIFF, GIF (its first picture), of one
    to four channels, with a palette, or 16 bits deep. Transparency is left out.
    Raises UserError, naming the image, if it cannot be decoded or is cut short.

    >>> decode(cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes()).shape
    (2, 3, 3)
    """
    if isinstance(image, np.ndarray):
        return image
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) if image else None
    except cv2.error as error:  # larger than OpenCV's limit, for one
        if is_out_of_memory(error):
            raise MemoryError(f"{name}: {one_line(error)}") from error
        pixels = None
    if pixels is None:
        raise UserError(f"{name} is not an image that can be decoded ({len(image)} bytes); remove or replace it")
    if _lacks_its_end(image):
        raise UserError(f"{name} is a JPEG image with a damaged end ({len(image)} bytes); remove or replace it")
    return pixels


def _lacks_its_end(content: bytes) -> bool:
    """A JPEG file whose last part was overwritten: OpenCV takes the strange bytes for pixels, Pillow misses the rest.

    Only files that do not stop at the end-of-image marker are decoded a second time. Those that go on after it (some
    cameras append things) are whole.
    """
    if not content.startswith(JPEG_START) or content.endswith(JPEG_END) or content.rstrip(b"\0").endswith(JPEG_END):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True
    return False
