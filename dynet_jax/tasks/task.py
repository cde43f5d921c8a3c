"""What a network is trained for. All that the loop, the steps and the commands do differently for one task is here."""

from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from dynet_jax.data.record import Arrays, Record, Source
from dynet_jax.errors import UserError, suggest
from dynet_jax.tasks.classification import Classification
from dynet_jax.tasks.segmentation import Segmentation

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


class Task(Protocol):
    """A kind of prediction, with the configuration of a run.

    Attributes:
      score: the test metric by which a checkpoint is the best.
      train_score: the training metric that is drawn beside it.
      score_title, loss_title: for people.
      init_size: side of the square images that parameters are initialised with.
    """

    @property
    def score(self) -> str: ...

    @property
    def train_score(self) -> str: ...

    @property
    def score_title(self) -> str: ...

    @property
    def loss_title(self) -> str: ...

    @property
    def init_size(self) -> int: ...

    def open_source(self, split: str) -> Source:
        """The records of 'train', 'test' or 'held_out'. Raises UserError if they are not on this machine."""

    def training_transform(self) -> Callable[[Record, np.random.Generator], Arrays]: ...

    def evaluation_transform(self) -> Callable[[Record], Arrays]: ...

    def preprocessing(self) -> Preprocessing | ResizedPreprocessing:
        """From a picture to what the network is given in evaluation."""

    def blank(self, *, training: bool) -> Arrays:
        """An example without content: what the transform gives, in shapes and types."""

    def losses(self, outputs, labels: jax.Array) -> tuple[jax.Array, Sums]:
        """What the network gives in training, labels -> the loss of each example, and sums over them to report."""

    def evaluate(self, apply: Callable, images: jax.Array, batch: Batch) -> Sums:
        """Sums over the examples with a 'mask' of 1. `apply` is the network in evaluation, images -> logits."""

    def metrics(self, sums: list[Sums]) -> dict:
        """The test metrics, `score` and 'loss' among them, of all batches' sums. Not all have to be numbers."""

    def illustrator(self, model: nn.Module, source: Source, *, mean, std) -> Callable[[dict], dict[str, np.ndarray]]:
        """variables -> pictures of a few test images, for TensorBoard, by their names: [height, width, 3] uint8."""

    def progress(self, means: dict[str, float]) -> str:
        """Of training metrics, for a line of progress."""

    def report(self, metrics: dict[str, float]) -> str:
        """Of test metrics, in a line."""


TASKS = {"classification": Classification, "segmentation": Segmentation}


def make_task(config: ml_collections.ConfigDict) -> Task:
    """The task of a configuration. Raises UserError for an unknown one."""
    if config.task not in TASKS:
        raise UserError(f"unknown task {config.task!r}; {suggest(str(config.task), TASKS)}")
    return TASKS[config.task](config)
