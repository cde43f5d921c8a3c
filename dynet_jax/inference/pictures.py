"""Pictures of every kind, from files, arrays and Pillow, read and made ready by threads beside the network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard, overload

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dynet_jax.data.decode import decode
from dynet_jax.data.files import list_images
from dynet_jax.errors import UserError
from dynet_jax.memory import is_out_of_memory

Picture: TypeAlias = str | Path | np.ndarray | Image.Image


class Ready(NamedTuple):
    """A picture as the network takes it, or why it cannot be used.

    Attributes:
      path: of a file, else None.
      image: as it was, where it is kept; None where it cannot be decoded.
      prepared: what the network is given; None where it cannot be decoded.
    """

    path: Path | None
    image: UInt8[np.ndarray, "height width 3"] | None = None
    prepared: UInt8[np.ndarray, "rows columns 3"] | None = None
    error: str | None = None


def is_one(pictures: Picture | Iterable[Picture]) -> TypeGuard[Picture]:
    """Returns whether this is a single picture. A folder, and an array of four dimensions, are several."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim < 4
    return isinstance(pictures, Image.Image) or (isinstance(pictures, str | Path) and not Path(pictures).is_dir())


@overload
def list_pictures(pictures: Path | Iterable[Path]) -> list[Path]: ...
@overload
def list_pictures(pictures: Picture | Iterable[Picture]) -> list[Picture]: ...
def list_pictures(pictures):
    """All of them, in order; the images in a folder instead of it.

    Raises UserError for a path that does not exist, an array that is no image, and what is neither.
    """
    given = [pictures] if isinstance(pictures, str | Path) or is_one(pictures) else pictures
    return [single for picture in given for single in _in_folder(picture)]


def _in_folder(picture: Picture) -> Sequence[Picture]:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
            raise UserError(f"an image must be [height, width, 3] uint8, not {picture.shape} {picture.dtype}")
        return [picture]
    if isinstance(picture, Image.Image):
        return [picture]
    if not isinstance(picture, str | Path):
        raise UserError(f"an image must be a path, an array or a Pillow image, not a {type(picture).__name__}")
    path = Path(picture)
    if path.is_dir():
        files = list_images(path)
        if not files:
            raise UserError(f"there are no images in {path}")
        return files
    if not path.is_file():
        raise UserError(f"there is no image {path}")
    return [path]


def read_picture(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """A picture in RGB, turned as EXIF says.

    Raises UserError for what cannot be decoded.

    >>> read_picture(Image.new("L", (3, 2), 7)).tolist() == [[[7] * 3] * 3] * 2
    True
    """
    if isinstance(picture, np.ndarray):
        return picture
    return _of_pillow(picture) if isinstance(picture, Image.Image) else decode(Path(picture).read_bytes(), str(picture))


def _of_pillow(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("I", "F"):
        raise UserError(f"a Pillow image of mode {picture.mode} has no range of values; convert it to RGB")
    try:
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"the Pillow image cannot be decoded: {error}") from error
    if picture.mode.startswith("I;16"):  # `convert` would cut values off instead
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


class ReadAhead:
    """Pictures made ready by threads, in their order, at most `ahead` of them before they are asked for.

    It begins at once. Used as a context, it drops what has not been asked for at the end. With `keep_images` the
    pictures as they were are kept too.
    """

    def __init__(
        self,
        pictures: Iterable[Picture],
        prepare: Callable[[np.ndarray], np.ndarray],
        *,
        threads: int,
        ahead: int,
        keep_images: bool = False,
    ):
        self._pool, self._prepare = ThreadPoolExecutor(threads, thread_name_prefix="pictures"), prepare
        self._keep_images = keep_images
        self._waiting = iter(pictures)
        self._under_way: deque[Future[Ready]] = deque(map(self._begin, islice(self._waiting, ahead)))

    def __iter__(self) -> Iterator[Ready]:
        while self._under_way:
            ready = self._under_way.popleft().result()
            self._under_way.extend(map(self._begin, islice(self._waiting, 1)))
            yield ready

    def _begin(self, picture: Picture) -> Future[Ready]:
        return self._pool.submit(self._ready, picture)

    def _ready(self, picture: Picture) -> Ready:
        path = Path(picture) if isinstance(picture, str | Path) else None
        try:
            image = read_picture(picture)
            return Ready(path, image if self._keep_images else None, self._prepare(image))
        except (UserError, OSError) as error:
            if is_out_of_memory(error):
                raise
            return Ready(path, error=str(error))

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *exception) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
