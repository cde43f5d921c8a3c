"""A network to be counted, by its name and arguments."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from dynet_jax.analysis.macs import MacCount, count_macs
from dynet_jax.models import create_model
from dynet_jax.models.fcn import FCN
from dynet_jax.models.registry import default_arguments

CITYSCAPES_CLASSES = 19


class Subject(NamedTuple):
    """`create_model(name, **arguments)` on one image of image_size x image_size pixels.

    With head_features it is the backbone of an `FCN` of 19 classes, instead of a classifier.
    """

    name: str
    arguments: Mapping[str, Any]
    image_size: int = 224
    head_features: int | None = None

    @property
    def count(self) -> MacCount:
        return _count(self.name, tuple(self.arguments.items()), self.image_size, self.head_features)

    @property
    def normalized(self) -> "Subject":
        """Without the arguments that are the network's defaults: equal for equal networks."""
        defaults = default_arguments(self.name)
        unusual = {key: value for key, value in self.arguments.items() if defaults.get(key) != value}
        return self._replace(arguments=unusual)

    @property
    def label(self) -> str:
        """'dy_mobile, width=0.5': the arguments that are not the defaults."""
        arguments = [f"{key}={value}" for key, value in self.normalized.arguments.items()]
        return ", ".join([self.name, *arguments, *(["FCN"] if self.head_features else [])])


@functools.cache
def _count(name, arguments, image_size, head_features):
    model = create_model(name, **dict(arguments))
    if head_features is not None:
        model = FCN(model, CITYSCAPES_CLASSES, head_features)
    return count_macs(model, (image_size, image_size, 3))
