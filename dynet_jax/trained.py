"""A trained network: all that a work directory says of it, opened without anything of training."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from dynet_jax import bucket
from dynet_jax.config.network import build_model
from dynet_jax.data.matching import matched
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError
from dynet_jax.hardware import devices
from dynet_jax.ops.outline import tracing_outlines
from dynet_jax.tasks.task import Task, make_task
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import read_class_names, read_config
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics
from dynet_jax.workdir.newest_whole import still_there


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What evaluation, prediction, export and analysis begin with.

    Attributes:
      workdir: where it comes from.
      config: what it was trained with.
      model: the network, called as `model.apply(variables, images, train=False)`.
      variables: of the model, NumPy's arrays: the moving averages where there are some.
      class_names: in the order of its outputs.
      step: of the checkpoint.
    """

    workdir: Path
    config: ml_collections.ConfigDict
    model: nn.Module
    variables: dict[str, Any]
    class_names: list[str]
    step: int

    @property
    def name(self) -> str:
        """Of the network, as `create_model` knows it."""
        return self.config.model.name

    @property
    def output_names(self) -> list[str]:
        """A name for every output: runs of earlier versions may have more of them than classes."""
        spare = (self.config.model.num_classes or 0) - len(self.class_names)
        return self.class_names + [f"(no class {number})" for number in range(1, spare + 1)]

    @functools.cached_property
    def task(self) -> Task:
        """What it is for, and with its data."""
        return make_task(self.config)

    @property
    def preprocessing(self):
        """From a picture to what the network is given, as in evaluation (see `dynet_jax.data.preprocessing`)."""
        return self.task.preprocessing()

    def open_source(self, split: str = "test") -> Source:
        """The records of a split with the network's classes, of which a dataset may have some in any order.

        Raises UserError if it has others.
        """
        return matched(self.task.open_source(split), self.class_names, self.config.data.name, str(self.workdir))

    def with_data(self, name: str | None, data_dir: str | None) -> "TrainedNetwork":
        """The same network for another dataset; what is None stays as it is."""
        config = self.config.copy_and_resolve_references()
        config.data.update({"name": name or config.data.name, "data_dir": data_dir or config.data.data_dir})
        return dataclasses.replace(self, config=config)


def open_trained(workdir: Path | str, *, step: int | str | None = None) -> TrainedNetwork:
    """The network of a work directory of `train.py` or `dynet import-torch`.

    Args:
      step: of the checkpoint, or 'best', by the task's score; the newest whole one if None.
    Raises:
      UserError: if there is no such work directory or checkpoint, or it is damaged, or of another network.
    """
    workdir = bucket.place(workdir)
    bucket.check_access(workdir)
    with bucket.told(workdir):
        return _opened(workdir, step)


def _opened(workdir: Path, step: int | str | None) -> TrainedNetwork:
    config = read_config(workdir)
    devices(or_cpu=True)
    model, checkpoints = build_model(config), Checkpoints(workdir)
    task = make_task(config)
    shapes = _shapes(model, task.init_size)
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


def _shapes(model: nn.Module, size: int) -> dict[str, Any]:
    """Of the network's parameters and statistics."""
    images = jnp.zeros((1, size, size, 3))
    with tracing_outlines():
        variables = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
