"""What a JPEG file says before its pixels: its size, its blocks, and whether a part of it can be decoded by itself."""

from typing import NamedTuple

from PIL import Image

START, END = b"\xff\xd8\xff", b"\xff\xd9"
BASELINE = (0xC0, 0xC1)  # Huffman-coded frames of one pass
OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}
APP1, SCAN = 0xE1, 0xDA
EXIF, ORIENTATION = b"Exif\0\0", 0x0112
LARGEST = 2**30  # pixels; OpenCV refuses larger images


class JpegHeader(NamedTuple):
    """The height and width of an image in pixels, and the width of the blocks (minimum coded units) in it."""

    height: int
    width: int
    block: int


def has_end(content: bytes) -> bool:
    """Returns whether a JPEG file ends with the end-of-image marker, which zeros may follow."""
    return content.endswith(END) or content.rstrip(b"\0").endswith(END)


def read_header(content: bytes) -> JpegHeader | None:
    """Returns the header of a JPEG file whose parts can be decoded; None for any other content.

    Such a file has its end, an upright baseline image, one or three channels of 8 bits, and a single scan. Others are
    progressive, arithmetic-coded, CMYK, or rotated by their EXIF data. The format is that of ITU-T T.81, annex B.

    >>> read_header(b"not a JPEG file") is None
    True
    """
    if not content.startswith(START) or not has_end(content):
        return None
    frame, position = b"", 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        kind, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        body = content[position + 4 : position + 2 + length]
        if kind == SCAN:
            return _of_frame(frame) if frame and body and body[0] == frame[5] else None
        if kind in OTHER_FRAMES or length < 2 or (kind == APP1 and _is_rotated(body)):
            return None
        if kind in BASELINE:
            frame = body if not frame and len(body) >= 6 else b""
        position += 2 + length
    return None


def _of_frame(frame: bytes) -> JpegHeader | None:
    height, width, channels = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]
    if frame[0] != 8 or channels not in (1, 3) or not 0 < height * width <= LARGEST or len(frame) < 6 + 3 * channels:
        return None
    across = max(frame[7 + 3 * channel] >> 4 for channel in range(channels)) if channels > 1 else 1
    return JpegHeader(height, width, 8 * across)


def _is_rotated(body: bytes) -> bool:
    if not body.startswith(EXIF):
        return False
    exif = Image.Exif()
    try:
        exif.load(body)
        return exif.get(ORIENTATION, 1) != 1
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError):
        return True  # OpenCV may read what Pillow does not
