"""Checks before anything is compiled: they run on every host and have the same outcome on all of them."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import IO, NamedTuple

import jax
import ml_collections
import numpy as np

from dynet_jax import bucket
from dynet_jax.config.load import check_config
from dynet_jax.console import size, warn
from dynet_jax.data.pixel_units import check_units
from dynet_jax.data.record import Source
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.hardware import devices
from dynet_jax.hosts import same_devices, same_everywhere, together
from dynet_jax.tasks.task import make_task
from dynet_jax.train.classes import with_classes
from dynet_jax.train.setup import Run, make_run, open_data
from dynet_jax.workdir.changes import check_progress
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import claim, read_config
from dynet_jax.workdir.holding import Holding, hold, lock_workdir
from dynet_jax.workdir.lease import Lease


class Start(NamedTuple):
    """The objects with which a run starts."""

    run: Run
    train_source: Source
    test_source: Source
    held: Holding | None = None  # the work directory; None only until this run owns it

    @property
    def images(self) -> dict[str, int]:
        """Returns the numbers of images."""
        return {"training images": len(self.train_source), "test images": len(self.test_source)}


def start_up(config: ml_collections.ConfigDict, workdir: Path, *, allow_config_change: bool = False) -> Start:
    """Checks everything, and writes the small files of the work directory.

    Raises UserError, on all hosts, for a problem that the user can fix on one of them.
    """

    same_devices(devices())

    @bucket.told(workdir)
    def prepare() -> Start:
        check_config(config)
        bucket.check_access(workdir)
        make_task(config).training_transform()
        train_source = open_data(config, "train")
        goes_on = bool(_saved(workdir))
        settled = with_classes(config, train_source, _outputs_before(workdir) if goes_on else None)
        layout = make_layout(config.batch_size, config.bn_batch_size, config.accumulation_steps)
        run = make_run(settled, len(train_source), layout)
        start = Start(run, train_source, open_data(config, "test"))
        check_rates(start.run)
        check_pairs(start.run)
        if not goes_on and config.init_from is None:  # loaded parameters were trained with their unit, whatever it is
            _check_pixel_units(config)
        return start

    start = together(prepare)
    config = start.run.config
    same_everywhere("the configuration", json.dumps(config.to_dict(), indent=1, sort_keys=True))
    for split, source in (("training", start.train_source), ("test", start.test_source)):
        summary = {"images": len(source), "classes": source.class_names}
        same_everywhere(f"the {split} set", json.dumps(summary, indent=1))

    @bucket.told(workdir)
    def settle() -> IO | Lease | None:
        if not bucket.is_bucket(workdir):
            check_space(start.run, workdir)
        if jax.process_index() != 0:
            return None
        held, classes = lock_workdir(workdir), start.train_source.class_names
        try:
            changed = claim(workdir, config, classes, start.images, allow_change=allow_config_change)
            run = start.run
            check_progress(workdir, max(_saved(workdir), default=0), run.steps_per_epoch, run.total_steps, changed)
        except BaseException:
            held.close()
            raise
        return held

    locked = together(settle)
    held = None
    try:
        held = together(lambda: hold(workdir, locked))
        same_everywhere(f"the work directory {workdir}", json.dumps({"checkpoints": together(lambda: _saved(workdir))}))
    except BaseException:
        taken = locked if held is None else held
        if taken is not None:
            taken.close()
        raise
    return start._replace(held=held)


def _saved(workdir: Path) -> list[int]:
    with bucket.told(workdir):
        return Checkpoints(workdir).steps


def _outputs_before(workdir: Path) -> int | None:
    """Returns the number of outputs of the run that is resumed; None if it is unknown."""
    with contextlib.suppress(UserError):  # problems with the folder are reported when it is claimed
        return read_config(workdir).model.num_classes
    return None


def _check_pixel_units(config: ml_collections.ConfigDict) -> None:
    warning = check_units(config.data.mean, config.data.std)
    if warning is not None and jax.process_index() == 0:
        warn(warning)


def check_rates(run: Run) -> None:
    """Raises UserError for learning rates that cannot be intended."""
    steps = np.linspace(0, run.total_steps - 1, 21).astype(np.int32)
    rates = np.asarray(jax.jit(jax.vmap(run.schedule))(steps))
    rounding = 1e-6 * run.config.learning_rate
    wrong = rates[~((rates >= -rounding) & (rates < np.inf))]
    if wrong.size or (max(rates) == 0 < run.config.learning_rate):
        which = f"a learning rate of {wrong[0]:g}" if wrong.size else "only learning rates of 0"
        raise UserError(f"schedule {run.config.schedule!r} gives {which}; check schedule_arguments and warmup_epochs")


def check_pairs(run: Run) -> None:
    """Raises UserError if images are to be mixed in pairs and a device sees an odd number at a time."""
    count = run.layout.micro_batch
    if run.mixing and count % 2:
        raise UserError(
            f"mixup and cutmix mix pairs of images, and a device sees {count} at a time, an odd number; use "
            f"--config.batch_size={2 * run.config.batch_size}, or fewer accumulation_steps"
        )


def check_space(run: Run, workdir: Path) -> None:
    """Raises UserError if the disk cannot hold the checkpoints that a run keeps and the one being written."""
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.state_template()))
    kept = run.config.keep_checkpoints + 1  # and the best one
    needed = state * max(1, kept + 1 - len(Checkpoints(workdir).steps))
    there = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{there} has {size(free)} free, but the checkpoints of this run need {size(needed)} ({size(state)} each); "
            f"make room for {size(needed - free)} more, or use a smaller --config.keep_checkpoints"
        )
