"""Fashion-MNIST's idx files, as published."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from dynet_jax.data.record import ArraySource
from dynet_jax.data.source import register_dataset
from dynet_jax.errors import UserError

FASHION_CLASSES = ["t-shirt/top", "trouser", "pullover", "dress", "coat"]
FASHION_CLASSES += ["sandal", "shirt", "sneaker", "bag", "ankle-boot"]


@register_dataset("fashion_mnist", like="fashion_mnist")
def _open(split: str, data_dir: str | None) -> "IdxSource":
    return IdxSource(Path(data_dir or "~/fashion_mnist").expanduser(), split)


class IdxSource(ArraySource):
    """The four gzipped idx files of Fashion-MNIST (or MNIST), as published."""

    def __init__(self, folder: Path, split: str):
        prefix = "train" if split == "train" else "t10k"
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels):
            raise UserError(f"{folder} has {len(images)} {split} images but {len(labels)} labels")
        super().__init__(images, labels, FASHION_CLASSES, f"fashion_mnist/{split}")


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Returns an idx file: two zero bytes, type (8 = uint8), rank, sizes as big-endian int32, values."""
    if not path.is_file():
        raise UserError(
            f"there is no {path}; fashion_mnist is read from the four official idx files "
            "(train-images-idx3-ubyte.gz, ...): give their directory as --config.data.data_dir=DIR of train.py, or "
            "--data-dir=DIR of dynet"
        )
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError("wrong magic number")
        shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is not an intact idx file ({error}); download it again") from error
