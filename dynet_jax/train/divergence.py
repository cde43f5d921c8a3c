"""Information for the person who has to find out why a loss is no longer finite."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynet_jax.data import training_batch, training_examples
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError
from dynet_jax.train.setup import Run

WATCHED = {
    "loss": "the loss",
    "gradient_norm": "the norm of the gradient",
    "statistics_norm": "the norm of BatchNorm's statistics",
    "parameter_norm": "the norm of the parameters",
}
SHOWN_EXAMPLES = 8


def first_bad_step(window: list[dict], last_step: int) -> tuple[int, str] | None:
    """Returns the first step with sums that are not finite, and which; `window` holds those up to `last_step`."""
    values = jax.device_get(window)
    for step, sums in enumerate(values, start=last_step - len(window) + 1):
        for key, name in WATCHED.items():
            if not math.isfinite(sums[key]):
                return step, f"{name} is {float(sums[key])}"
    return None


def diverged(
    run: Run, source: Source, step: int, what: str, files: Path, workdir: Path, saved: int | None
) -> UserError:
    """Returns the error for a diverged step, after writing its batch to `files`, which become WORKDIR."""
    kept = "no checkpoint had been saved" if saved is None else f"the last good checkpoint is of step {saved}"
    rate: Any = run.schedule(step - 1)
    return UserError(
        f"{what} at step {step}, at a learning rate of {float(rate):.4g}, "
        f"{_dump(run, source, step, files, workdir)}; {kept}. Use a smaller --config.learning_rate than "
        f"{run.config.learning_rate}, or --config.clip_norm=1"
    )


def _dump(run: Run, source: Source, step: int, files: Path, workdir: Path) -> str:
    """Writes the global batch, regenerated from the seed and the step, and returns a text that names its examples."""
    config = run.config
    drawn = {"batch_size": config.batch_size, "seed": config.seed, "step": step - 1}  # the first step is batch 0
    indices = training_examples(source, **drawn)
    more = ", ..." if len(indices) > SHOWN_EXAMPLES else ""
    text = f"on the training examples {', '.join(map(str, indices[:SHOWN_EXAMPLES]))}{more}"
    if jax.process_index() > 0:
        return text
    path = files / f"diverged_step{step}.npz"
    try:
        arrays, examples = training_batch(source, run.task.training_transform(), **drawn, threads=config.data.threads)
        names = np.asarray([example.name for example in examples])
        named: Any = {**arrays, "index": [example.index for example in examples], "name": names}
        np.savez_compressed(path, **named)
    except (OSError, UserError) as error:  # a full disk, for example, must not hide the original problem
        return f"{text} (which could not be written to {path}: {error})"
    return f"{text} (all of them in {workdir / path.name})"
