"""The whole saved state of a run, including its optimiser's, as training restores it."""

import jax

from dynet_jax.devices import make_layout
from dynet_jax.train.setup import Run, make_run
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import read_config


def load_workdir(workdir, devices=None, *, step=None) -> tuple[Run, TrainState]:
    config = read_config(workdir)
    devices = jax.devices() if devices is None else devices
    layout = make_layout(len(devices), bn_batch_size=1, devices=devices)
    run = make_run(config, train_examples=config.batch_size, layout=layout)
    return run, Checkpoints(workdir).restore(run.state_template(), step=step)
