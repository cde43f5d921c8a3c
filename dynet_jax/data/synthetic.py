"""Noise, for measuring speed without a dataset."""

import numpy as np

from dynet_jax.data.record import Record
from dynet_jax.data.source import register_dataset

TRAIN, TEST = 100_000, 1_000


class SyntheticSource:
    """Noise with a label, made from the index, for measuring speed without a dataset."""

    class_names = [f"class {index}" for index in range(1000)]  # noqa: RUF012  (never changed)

    def __init__(self, examples: int = 100_000, image_size: int = 256):
        self.examples, self.image_size = examples, image_size
        # One block of noise, cut at a different place for each index; generating noise would dominate the time.
        self._noise = np.random.default_rng(0).integers(0, 256, (2 * image_size, 2 * image_size, 3), np.uint8)

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> Record:
        top, left = index % self.image_size, (index // self.image_size) % self.image_size
        image = self._noise[top : top + self.image_size, left : left + self.image_size]
        return Record(image, index % len(self.class_names), self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"synthetic/{index}"


@register_dataset("synthetic", like=None)
def _open(split: str, data_dir: str | None) -> SyntheticSource:
    return SyntheticSource(TRAIN if split == "train" else TEST)
