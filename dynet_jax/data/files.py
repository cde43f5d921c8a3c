"""Datasets that are plain files: class folders of images, and the idx files of (Fashion-)MNIST."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from dynet_jax.data.record import ArraySource, Record
from dynet_jax.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}
FASHION_CLASSES = ["t-shirt/top", "trouser", "pullover", "dress", "coat"]
FASHION_CLASSES += ["sandal", "shirt", "sneaker", "bag", "ankle-boot"]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted, so that an index means the same image everywhere."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _class_folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}


class FolderSource:
    """PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; the classes are train's folders in sorted order."""

    def __init__(self, root: Path, split: str):
        train = self._split_folder(root, "train")
        folder = train if split == "train" else self._split_folder(root, split)
        self.class_names = sorted(_class_folders(train))
        unknown = _class_folders(folder) - set(self.class_names)
        if unknown:
            raise UserError(f"{folder} has classes that {train} has not: {', '.join(sorted(unknown)[:5])}")
        self.files = [
            (path, label) for label, name in enumerate(self.class_names) for path in list_images(folder / name)
        ]
        if not self.files:
            raise UserError(f"no images below {folder}; it must hold one folder of images per class")

    @staticmethod
    def _split_folder(root: Path, split: str) -> Path:
        for name in SPLIT_FOLDERS[split]:
            if (root / name).is_dir():
                return root / name
        names = " or ".join(f"{root / name}" for name in SPLIT_FOLDERS[split])
        raise UserError(
            f"there is no {names}; an image folder is laid out as PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path, label = self.files[index]
        return Record(path.read_bytes(), label, str(path))

    def name_of(self, index: int) -> str:
        return str(self.files[index][0])


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
    """The idx format: two zero bytes, the type (8 = uint8), the rank, the sizes as big-endian int32, the values."""
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
        raise UserError(f"{path} is not a whole idx file ({error}); fetch it again") from error
