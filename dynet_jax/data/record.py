"""Records, the elements of all sources of images, in an order that is the same on all machines."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from dynet_jax.errors import UserError

Arrays = dict[str, np.ndarray | np.generic]  # the arrays of an example, by name
IGNORED = 255  # in a class map: a pixel that does not count


class UnknownClass(UserError):
    """An error: labels that belong to another set of classes, which is a mistake that ends the run, not damage."""


class Encoded(Protocol):
    """A class map that is still the content of a file."""

    def decode(self) -> np.ndarray:
        """Returns [height, width] uint8, classes and IGNORED. Raises UserError if it cannot be decoded."""


class Record(NamedTuple):
    """One labelled image: [height, width, 3] uint8, or the bytes of an image file; its class, or its class map.

    A class map is [height, width] uint8, or `Encoded`.
    """

    image: Any
    label: Any
    name: str


class Source(Protocol):
    """Random access to the records of one split."""

    class_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Returns a record. Raises OSError if it cannot be read."""

    def name_of(self, index: int) -> str:
        """Returns the name of a record, which may be unreadable, without reading it."""


class ArraySource:
    """Images in memory, [n, height, width] or [n, height, width, 3] uint8."""

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
