"""Datasets by name: where records come from. Nothing here knows of models."""

from pathlib import Path
from typing import Any

import numpy as np

from dynet_jax.data.files import FolderSource, IdxSource
from dynet_jax.data.packed import PackedSource
from dynet_jax.data.record import ArraySource, Record, Source
from dynet_jax.data.tfds_source import TfdsSource
from dynet_jax.errors import UserError, suggest

DATASETS = ("cifar10", "digits", "fashion_mnist", "folder:PATH", "imagenet2012", "packed:DIR", "synthetic")


def load_source(dataset: str, split: str, data_dir: str | None = None) -> Source:
    """Open one split of a dataset; images are read when they are asked for.

    Args:
      dataset: one of DATASETS. `folder:PATH` holds PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; `packed:DIR` is
        what `dynet prepare folder:PATH --data-dir=DIR` has made of such folders.
      split: 'train' or 'test' (ImageNet's and a folder's validation images).
      data_dir: where prepared datasets lie; TFDS's default (~/tensorflow_datasets) if None. For fashion_mnist, the
        directory of its four idx files.
    Raises:
      UserError: for an unknown dataset, or one that is not on this machine, saying how to get it.

    >>> source = load_source("digits", "test")
    >>> len(source), source[0].image.shape, source.class_names[:3]
    (359, (8, 8, 3), ['0', '1', '2'])
    """
    kind, _, path = dataset.partition(":")
    if kind in ("camvid", "cityscapes", "maps"):
        raise UserError(f"{dataset} has maps of classes, for segmentation (configs/seg_*.py); this is a classifier")
    for place in (path, data_dir or ""):
        if "://" in place:
            raise UserError(f"{place} is an address, not a folder; mount or copy it, as docs/tpu.md says")
    if kind == "folder" and path:
        return FolderSource(Path(path).expanduser(), split)
    if kind == "packed" and path:
        return PackedSource(Path(path).expanduser(), split)
    if dataset == "fashion_mnist":
        return IdxSource(Path(data_dir or "~/fashion_mnist").expanduser(), split)
    if dataset == "digits":
        return ArraySource(*_digits(split), [str(digit) for digit in range(10)], f"digits/{split}")
    if dataset == "synthetic":
        return SyntheticSource(100_000 if split == "train" else 1_000)
    if dataset in ("imagenet2012", "cifar10"):
        return TfdsSource(dataset, split, data_dir)
    raise UserError(f"unknown dataset {dataset!r}; {suggest(dataset, DATASETS)}")


class SyntheticSource:
    """Noise with a label, made from the index: for measuring speed where there is no dataset."""

    class_names = [f"class {index}" for index in range(1000)]  # noqa: RUF012  (never changed)

    def __init__(self, examples: int = 100_000, image_size: int = 256):
        self.examples, self.image_size = examples, image_size
        # One block of noise, cut at another place for each index: making fresh noise would be what is measured.
        self._noise = np.random.default_rng(0).integers(0, 256, (2 * image_size, 2 * image_size, 3), np.uint8)

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> Record:
        top, left = index % self.image_size, (index // self.image_size) % self.image_size
        image = self._noise[top : top + self.image_size, left : left + self.image_size]
        return Record(image, index % len(self.class_names), self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"synthetic/{index}"


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits of 8x8. They have no official split: every fifth image is a test image."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    is_test = np.arange(len(images)) % 5 == 4
    chosen = is_test if split == "test" else ~is_test
    return images[chosen], digits.target[chosen]
