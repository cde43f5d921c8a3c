"""A trained network and images of its test set: what is looked at when a work directory is analysed."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from dynet_jax.data import evaluation_batches
from dynet_jax.data.subset import Subset, spread
from dynet_jax.errors import UserError
from dynet_jax.ops.pixels import normalize
from dynet_jax.tasks.task import make_task
from dynet_jax.train.restore import load_workdir
from dynet_jax.train.setup import Run

IMAGES_AT_ONCE = 64
SECONDS_BETWEEN_LINES = 5
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network, what it has learnt (the moving averages where there are some), and test images.

    Attributes:
      workdir: where it comes from.
      run: the run's configuration and task, with the dataset of the images.
      variables: of `model`.
      step: of the checkpoint.
      images: the records that are looked at.
    """

    workdir: Path
    run: Run
    variables: dict
    step: int
    images: Subset

    @property
    def model(self) -> nn.Module:
        """The network, called as `model.apply(variables, images, train=False)`."""
        return self.run.model

    @property
    def dataset(self) -> str:
        """The name of the dataset that the images are from."""
        return self.run.config.data.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[height, width, 3] of what the network is given."""
        return self.run.task.blank(training=False)["image"].shape

    def batches(self, say: Say | None = None) -> Iterator[dict[str, np.ndarray]]:
        """The images as the run's own evaluation sees them, each once.

        say: is told how far it is, every few seconds.
        Yields 'image' [batch, height, width, 3] float32, normalised; 'label'; 'index' [batch], the place in `images`;
        'mask' [batch], 0 for what only fills up the last batch and for images that cannot be decoded.
        """
        at_once, data = min(IMAGES_AT_ONCE, len(self.images)), self.run.config.data
        batches = evaluation_batches(
            self.images,
            self.run.task.evaluation_transform(),
            blank=self.run.task.blank(training=False),
            batch_size=at_once,
            threads=data.threads,
            workers=data.workers,
            corrupt=self.run.corrupt,
        )
        said = time.monotonic()
        for number, batch in enumerate(batches):
            if say is not None and time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"{self.workdir}: {number * at_once} of {len(self.images)} images")
            images = np.asarray(normalize(batch["image"], **self.run.pixels))
            yield {**batch, "image": images, "index": number * at_once + np.arange(at_once)}


def open_trained(
    workdir: Path,
    *,
    images: int | None = None,
    step: int | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> Trained:
    """A checkpoint of a work directory, on one device, and its test set.

    Args:
      images: how many, spread evenly over the test set; None for all.
      step: of the checkpoint, or 'best'; None for the newest.
      data, data_dir: another dataset, and where it is prepared; the run's own if None.
    Raises:
      UserError: if there is no such checkpoint or dataset, or less than one image is asked for.
    """
    if images is not None and images < 1:
        raise UserError(f"at least one image has to be looked at, not {images}")
    run, state = load_workdir(workdir, devices=jax.devices()[:1], step=step)
    config = run.config.copy_and_resolve_references()
    config.data.update({"name": data or config.data.name, "data_dir": data_dir or config.data.data_dir})
    run = dataclasses.replace(run, config=config, task=make_task(config))
    test_set = spread(run.task.open_source("test"), images)
    return Trained(workdir, run, state.averaged_variables, int(state.step), test_set)
