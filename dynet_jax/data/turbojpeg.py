"""A part of a JPEG image by libjpeg-turbo 3, if it is installed: the pixels outside are parsed, but not computed.

PyTurboJPEG and simplejpeg decode whole images only, so this calls the library itself (its function
`tj3SetCroppingRegion`). It is looked for as a library of the system, and in the package `turbojpeg`, which contains it.
"""

import ctypes
import functools
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynet_jax.data.jpeg_header import JpegHeader

DECOMPRESS, RGB = 1, 0  # TJINIT_DECOMPRESS, TJPF_RGB
CONTEXT = 2  # pixels beside a region that the interpolation of colours between samples reads
NAMES = ("libturbojpeg.so.0", "libturbojpeg.dylib", "turbojpeg.dll")


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


def available() -> bool:
    """Returns whether libjpeg-turbo 3 is installed. Pixels are the same without it."""
    return _library() is not None


def decode_part(content: bytes, header: JpegHeader, top: int, left: int, height: int, width: int) -> np.ndarray | None:
    """Returns rows top to top + height and columns left to left + width of the image, [height, width, 3] uint8 RGB.

    They are exactly those of the whole image as libjpeg decodes it. None: the library is not installed, or had an
    error or a warning; only a decoder of whole images decides whether the file is damaged.
    """
    library = _library()
    if library is None:
        return None
    first = max(0, left - CONTEXT) // header.block * header.block
    last = min(header.width, left + width + CONTEXT)
    pixels = np.empty((height, last - first, 3), np.uint8)
    handle, length = _handle(library), len(content)
    done = (
        library.tj3SetCroppingRegion(handle, _Region(0, 0, 0, 0)) == 0
        and library.tj3DecompressHeader(handle, content, length) == 0
        and library.tj3SetCroppingRegion(handle, _Region(first, top, last - first, height)) == 0
        and library.tj3Decompress8(handle, content, length, pixels.ctypes.data, 0, RGB) == 0
    )
    return pixels[:, left - first : left - first + width] if done else None


class _Decoder:
    """One decoder of the library, which must not be used by two threads at once."""

    def __init__(self, library: ctypes.CDLL):
        self.handle = ctypes.c_void_p(library.tj3Init(DECOMPRESS))
        self._destroy = library.tj3Destroy

    def __del__(self):
        self._destroy(self.handle)


_of_thread = threading.local()


def _handle(library: ctypes.CDLL) -> ctypes.c_void_p:
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = _Decoder(library)
    return _of_thread.decoder.handle


@functools.cache
def _library() -> ctypes.CDLL | None:
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            return _declared(library)
        except (OSError, AttributeError):  # not there, or older than version 3
            continue
    return None


def _candidates() -> Iterator[str]:
    yield from NAMES
    package = importlib.util.find_spec("turbojpeg")
    if package is not None and package.origin:
        yield from map(str, Path(package.origin).parent.glob("turbojpeg.libs/libturbojpeg*"))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    handle, content, length = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    library.tj3Init.argtypes, library.tj3Init.restype = [ctypes.c_int], handle
    library.tj3Destroy.argtypes, library.tj3Destroy.restype = [handle], None
    library.tj3DecompressHeader.argtypes = [handle, content, length]
    library.tj3SetCroppingRegion.argtypes = [handle, _Region]
    library.tj3Decompress8.argtypes = [handle, content, length, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library
