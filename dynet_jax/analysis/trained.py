"""A trained network and images of its test set, the subject of an analysis of a work directory."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from dynet_jax.data import CorruptImages, evaluation_batches
from dynet_jax.data.subset import Subset, spread
from dynet_jax.errors import UserError
from dynet_jax.memory import images_at_once
from dynet_jax.ops.pixels import normalize
from dynet_jax.trained import TrainedNetwork
from dynet_jax.trained import open_trained as open_network

IMAGES_AT_ONCE = 64
SECONDS_BETWEEN_LINES = 5
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Trained(TrainedNetwork):
    """A trained network whose configuration names the dataset of the images.

    Attributes:
      images: the records to analyse.
      corrupt: images that could not be read so far.
    """

    images: Subset
    corrupt: CorruptImages

    @property
    def dataset(self) -> str:
        """Returns the name of the images' dataset."""
        return self.config.data.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Returns [height, width, 3] of the network's input."""
        return self.task.blank(training=False)["image"].shape

    def batches(self, say: Say | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Yields the images as the run's own evaluation sees them, each once.

        say: is called with the progress, every few seconds.
        A batch has 'image' [batch, height, width, 3] float32, normalised; 'label'; 'index' [batch], the position in
        `images`; 'mask' [batch], 0 for examples that only fill up the last batch and for undecodable images.
        """
        at_once, data = images_at_once(self.image_shape, min(IMAGES_AT_ONCE, len(self.images))), self.config.data
        batches = evaluation_batches(
            self.images,
            self.task.evaluation_transform(),
            blank=self.task.blank(training=False),
            batch_size=at_once,
            threads=data.threads,
            workers=data.workers,
            corrupt=self.corrupt,
        )
        said = time.monotonic()
        for number, batch in enumerate(batches):
            if say is not None and time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"{self.workdir}: {number * at_once} of {len(self.images)} images")
            images = np.asarray(normalize(batch["image"], data.mean, data.std))
            yield {**batch, "image": images, "index": number * at_once + np.arange(at_once)}


def open_trained(
    workdir: Path,
    *,
    images: int | None = None,
    step: int | str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> Trained:
    """Opens a checkpoint of a work directory, with its variables on one device, and its test set.

    Args:
      images: number of images, spread evenly over the test set; None for all.
      step: the step of the checkpoint, or 'best'; None for the newest.
      data, data_dir: another dataset, and the folder where it is prepared; the run's own if None.
    Raises:
      UserError: if there is no such checkpoint or dataset, or if fewer than one image is requested.
    """
    if images is not None and images < 1:
        raise UserError(f"at least one image is required, not {images}")
    network = open_network(workdir, step=step).with_data(data, data_dir)
    known = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    known["variables"] = jax.device_put(network.variables)
    corrupt = CorruptImages(network.config.data.max_corrupt)
    return Trained(**known, images=spread(network.open_source(), images), corrupt=corrupt)
