"""A trained state from a work directory."""

from collections.abc import Sequence
from pathlib import Path

import jax

from dynet_jax.errors import UserError
from dynet_jax.train.distributed import make_layout
from dynet_jax.train.setup import Run, make_run
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import read_config
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics


def load_workdir(
    workdir: Path, devices: Sequence | None = None, *, step: int | str | None = None
) -> tuple[Run, TrainState]:
    """The run and a state of a work directory: the newest whole one, that of a step, or the 'best' by the task's score.

    Raises UserError if there is none.
    """
    config = read_config(workdir)
    devices = jax.devices() if devices is None else devices
    layout = make_layout(len(devices), bn_batch_size=1, devices=devices)  # evaluation has no BatchNorm groups
    run = make_run(config, train_examples=config.batch_size, layout=layout)
    checkpoints = Checkpoints(workdir)
    if step == "best":
        for row in read_metrics(workdir / METRICS_FILE, "test"):
            checkpoints.score(row["step"], row[run.task.score])
        step = checkpoints.best_step
        if step is None:
            raise UserError(f"no checkpoint in {workdir} has been evaluated, so none is the best; leave out --step")
    return run, checkpoints.restore(run.state_template(), step=step)
