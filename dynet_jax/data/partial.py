"""A JPEG image of which only the part that is needed is decoded, with the pixels and the errors of the whole image."""

import numpy as np

from dynet_jax.data import turbojpeg
from dynet_jax.data.decode import decode
from dynet_jax.data.jpeg_header import JpegHeader, read_header


class PartialJpeg:
    """A JPEG file that behaves like an image [height, width, 3] uint8 when it is cut: image[top:bottom, left:right].

    Cutting raises UserError if the file is damaged, wherever in it.
    """

    def __init__(self, content: bytes, name: str, header: JpegHeader):
        self._content, self._name, self._header = content, name, header
        self.shape = (header.height, header.width, 3)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        top, left, height, width = (*(part.start for part in window), *(part.stop - part.start for part in window))
        pixels = turbojpeg.decode_part(self._content, self._header, top, left, height, width)
        return decode(self._content, self._name)[window] if pixels is None else pixels


def open_image(image: np.ndarray | bytes, name: str = "image") -> np.ndarray | PartialJpeg:
    """Returns an image to cut from: a baseline JPEG file undecoded, anything else by `decode`, with its errors."""
    if isinstance(image, np.ndarray | PartialJpeg):
        return image
    header = read_header(image)
    return decode(image, name) if header is None else PartialJpeg(image, name, header)
