"""What every source of images gives: records, in an order that means the same everywhere."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from dynet_jax.errors import UserError

Arrays = dict[str, np.ndarray | np.generic]  # of an example, by their names
IGNORED = 255  # in a map of classes: a pixel that does not count


class UnknownClass(UserError):
    """Labels that belong to another set of classes: not damage of one file, but a mistake that ends the run."""


class Encoded(Protocol):
    """A map of classes that is still a file's content."""

    def decode(self) -> np.ndarray:
        """[height, width] uint8, classes and IGNORED. Raises UserError if it cannot be decoded."""


class Record(NamedTuple):
    """One labelled image: [height, width, 3] uint8, or the bytes of an image file; its class, or its map of classes.

    A map is [height, width] uint8, or `Encoded`.
    """

    image: Any
    label: Any
    name: str


class Source(Protocol):
    """Random access to the records of one split."""

    class_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises OSError if the record cannot be read."""

    def name_of(self, index: int) -> str:
        """What to call a record that may not be readable. Reads nothing."""


class ArraySource:
    """Images that are in memory already, [n, height, width] or [n, height, width, 3] uint8."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: list[str], name: str):
        self.images, self.labels = images, labels
        self.class_names, self.name = class_names, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        image = self.images[index]
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=-1)
        return Record(image, int(self.labels[index]), self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"{self.name}/{index}"
