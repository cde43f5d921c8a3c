"""A trained network: the content of a work directory, opened without any training code."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import ml_collections

from dynet_jax import bucket
from dynet_jax.config.network import build_model
from dynet_jax.data.matching import matched
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError
from dynet_jax.hardware import devices
from dynet_jax.models.weights_file import read_weights, variable_shapes
from dynet_jax.pretrained import CARD_FILE, SCHEME, WEIGHTS_FILE, is_pretrained
from dynet_jax.tasks.task import Task, make_task
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import read_class_names, read_config
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics
from dynet_jax.workdir.newest_whole import still_there


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, the start of evaluation, prediction, export and analysis.

    Attributes:
      workdir: its work directory.
      config: the configuration of its training.
      model: the network, called as `model.apply(variables, images, train=False)`.
      variables: variables of the model as NumPy arrays; the moving averages if there are any.
      class_names: class names in the order of its outputs.
      step: the step of the checkpoint.
    """

    workdir: Path
    config: ml_collections.ConfigDict
    model: nn.Module
    variables: dict[str, Any]
    class_names: list[str]
    step: int

    @property
    def name(self) -> str:
        """Returns the network's name for `create_model`."""
        return self.config.model.name

    @property
    def output_names(self) -> list[str]:
        """Returns a name for every output; runs of earlier versions may have more outputs than classes."""
        spare = (self.config.model.num_classes or 0) - len(self.class_names)
        return self.class_names + [f"(no class {number})" for number in range(1, spare + 1)]

    @functools.cached_property
    def task(self) -> Task:
        """Returns the task, with its data."""
        return make_task(self.config)

    @property
    def preprocessing(self):
        """Returns the conversion of an image to the network's input in evaluation (`dynet_jax.data.preprocessing`)."""
        return self.task.preprocessing()

    def open_source(self, split: str = "test") -> Source:
        """Returns the records of a split with the network's classes; a dataset may have some of them in any order.

        Raises UserError if it has other classes.
        """
        return matched(self.task.open_source(split), self.class_names, self.config.data.name, str(self.workdir))

    def with_data(self, name: str | None, data_dir: str | None) -> "TrainedNetwork":
        """Returns the same network for another dataset; None leaves a setting as it is."""
        config = self.config.copy_and_resolve_references()
        config.data.update({"name": name or config.data.name, "data_dir": data_dir or config.data.data_dir})
        return dataclasses.replace(self, config=config)


def open_trained(workdir: Path | str, *, step: int | str | None = None) -> TrainedNetwork:
    """Returns the network of a work directory of `train.py` or `dynet import-torch`, or of the package itself.

    Args:
      workdir: a folder, gs://BUCKET/PATH, or 'pretrained:NAME' (see `dynet_jax.list_pretrained`).
      step: the step of the checkpoint, or 'best', by the task's score; the newest valid one if None.
    Raises:
      UserError: if there is no such work directory or checkpoint, or if it is damaged or of another network.
    """
    workdir = bucket.place(workdir)
    bucket.check_access(workdir)
    with bucket.told(workdir):
        return _opened(workdir, step)


def _opened(workdir: Path, step: int | str | None) -> TrainedNetwork:
    config = read_config(workdir)
    devices(or_cpu=True)
    model, task = build_model(config), make_task(config)
    shapes = variable_shapes(model, task.init_size)
    if is_pretrained(workdir):
        if step is not None:
            raise UserError(f"{SCHEME}{workdir.name} is a single checkpoint; leave out the step")
        variables = read_weights(workdir / WEIGHTS_FILE, shapes)
        return TrainedNetwork(workdir, config, model, variables, read_class_names(workdir), _step_of_card(workdir))
    checkpoints = Checkpoints(workdir)
    if isinstance(step, str):
        if step != "best":
            raise UserError(f"step must be a number or 'best', not {step!r}")
        saved = still_there(lambda: checkpoints.read(shapes, step=_best_step(checkpoints, workdir, task.score)))
    else:
        saved = checkpoints.read(shapes, step=step)
    return TrainedNetwork(workdir, config, model, saved.variables, read_class_names(workdir), saved.step)


def _best_step(checkpoints: Checkpoints, workdir: Path, score: str) -> int:
    for row in read_metrics(workdir / METRICS_FILE, "test"):
        checkpoints.score(row["step"], row[score])
    if checkpoints.best_step is None:
        raise UserError(f"no checkpoint in {workdir} has been evaluated, so none is the best; leave out --step")
    return checkpoints.best_step


def _step_of_card(folder: Path) -> int:
    return json.loads((folder / CARD_FILE).read_text())["step"]
