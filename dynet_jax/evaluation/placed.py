"""A network on devices, with the settings of its evaluation. A training run is one, too."""

import dataclasses
import functools

import flax.linen as nn
import ml_collections

from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.devices import Layout
from dynet_jax.tasks.task import Task, make_task


@dataclasses.dataclass(frozen=True)
class PlacedNetwork:
    """A network, its configuration, and its devices.

    Attributes:
      corrupt: images that could not be read so far.
      batch: number of images that an evaluation processes at once; None is that of a training step.
    """

    config: ml_collections.ConfigDict
    layout: Layout
    model: nn.Module
    corrupt: CorruptImages
    batch: int | None = dataclasses.field(default=None, kw_only=True)

    @functools.cached_property
    def task(self) -> Task:
        """Returns the network's task, with the dataset of the configuration."""
        return make_task(self.config)

    @property
    def pixels(self) -> dict[str, tuple]:
        """Returns mean and standard deviation of the images, for the steps."""
        return {"mean": tuple(self.config.data.mean), "std": tuple(self.config.data.std)}
