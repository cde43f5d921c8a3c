"""The interface of a task, which contains everything in which loop, steps and commands depend on it."""

from collections.abc import Callable
from typing import Any, Protocol

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
      score: the test metric that determines the best checkpoint.
      train_score: the training metric that is drawn beside it.
      score_title, loss_title: titles in figures.
      init_size: side of the square images for the initialisation of parameters.
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
        """Returns the records of 'train', 'test' or 'held_out'. Raises UserError if they are not on this machine."""

    def training_transform(self) -> Callable[[Record, np.random.Generator], Arrays]: ...

    def evaluation_transform(self) -> Callable[[Record], Arrays]: ...

    def preprocessing(self) -> Preprocessing | ResizedPreprocessing:
        """Returns the conversion of an image to the network's input in evaluation."""

    def blank(self, *, training: bool) -> Arrays:
        """Returns an empty example with the shapes and types of the transform's results."""

    def losses(self, outputs, labels: Any) -> tuple[jax.Array, Sums]:
        """Returns the loss of each example, from the network's outputs in training, and sums to report.

        labels: an array, or `MixedLabels` of mixed images.
        """

    def evaluate(self, apply: Callable, images: jax.Array, batch: Batch) -> Sums:
        """Returns sums over the examples with a 'mask' of 1. `apply` is the network in evaluation, images -> logits."""

    def metrics(self, sums: list[Sums]) -> dict:
        """Returns the test metrics of all batches' sums, including `score` and 'loss'. Some may not be numbers."""

    def illustrator(self, model: nn.Module, source: Source, *, mean, std) -> Callable[[dict], dict[str, np.ndarray]]:
        """Returns a function from variables to pictures of test images for TensorBoard, [height, width, 3] uint8."""

    def progress(self, means: dict[str, float]) -> str:
        """Returns the training metrics as text for a line of progress."""

    def report(self, metrics: dict[str, float]) -> str:
        """Returns the test metrics as one line."""


TASKS = {"classification": Classification, "segmentation": Segmentation}


def make_task(config: ml_collections.ConfigDict) -> Task:
    """Returns the task of a configuration. Raises UserError for an unknown one."""
    if config.task not in TASKS:
        raise UserError(f"unknown task {config.task!r}; {suggest(str(config.task), TASKS)}")
    return TASKS[config.task](config)
