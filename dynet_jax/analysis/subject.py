"""A network to be counted, given by its name and arguments."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from dynet_jax.analysis.macs import MacCount, count_macs
from dynet_jax.models import create_model
from dynet_jax.models.registry import default_arguments


class Subject(NamedTuple):
    """`create_model(name, **arguments)` on one image of image_size x image_size pixels."""

    name: str
    arguments: Mapping[str, Any]
    image_size: int = 224

    @property
    def count(self) -> MacCount:  # pyrefly: ignore[bad-override]  (nobody counts what is in the tuple)
        return _count(self.name, tuple(self.arguments.items()), self.image_size)

    @property
    def normalized(self) -> "Subject":
        """Returns the subject without arguments that are defaults, so that equal networks are equal."""
        defaults = default_arguments(self.name)
        unusual = {key: value for key, value in self.arguments.items() if defaults.get(key) != value}
        return self._replace(arguments=unusual)

    @property
    def label(self) -> str:
        """Returns 'dy_mobile, width=0.5', with the arguments that are not defaults."""
        arguments = [f"{key}={value}" for key, value in self.normalized.arguments.items()]
        return ", ".join([self.name, *arguments])


@functools.cache
def _count(name, arguments, image_size):
    return count_macs(create_model(name, **dict(arguments)), (image_size, image_size, 3))
