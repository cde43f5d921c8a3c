"""A network on devices, and what decides how it is evaluated there. Training has one too: its run."""

import dataclasses
import functools

import flax.linen as nn
import ml_collections

from dynet_jax.data import CorruptImages
from dynet_jax.devices import Layout
from dynet_jax.tasks.task import Task, make_task


@dataclasses.dataclass(frozen=True)
class PlacedNetwork:
    """A network, its configuration, and the devices that it works on.

    Attributes:
      corrupt: images that could not be read so far.
      batch: how many images an evaluation takes at once; None is what a step of training takes.
    """

    config: ml_collections.ConfigDict
    layout: Layout
    model: nn.Module
    corrupt: CorruptImages
    batch: int | None = dataclasses.field(default=None, kw_only=True)

    @functools.cached_property
    def task(self) -> Task:
        """What the network is for, with the dataset of the configuration."""
        return make_task(self.config)

    @property
    def pixels(self) -> dict[str, tuple]:
        """Mean and standard deviation of the images, for the steps."""
        return {"mean": tuple(self.config.data.mean), "std": tuple(self.config.data.std)}
