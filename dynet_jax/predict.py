"""Use of a trained work directory: evaluate it again, or classify images."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynet_jax.config.load import check_config, override
from dynet_jax.data import CorruptImages
from dynet_jax.data.augment import center_crop, decode
from dynet_jax.data.files import list_images
from dynet_jax.errors import UserError
from dynet_jax.tasks.task import make_task
from dynet_jax.train.evaluate import evaluate
from dynet_jax.train.held_coefficients import evaluate_held
from dynet_jax.train.restore import load_workdir
from dynet_jax.train.step import make_eval_step, make_predict_step
from dynet_jax.workdir.files import FREE_IN_EVALUATION, read_class_names

IMAGES_AT_ONCE = 32


class Prediction(NamedTuple):
    """The most probable classes of one image, best first; or why there are none."""

    path: Path
    top: list[tuple[str, float]]
    error: str | None = None


def evaluate_workdir(
    workdir: Path,
    data: str | None = None,
    data_dir: str | None = None,
    *,
    step: int | str | None = None,
    held_out: bool = False,
    changes: Sequence[str] = (),
    coefficients: str | None = None,
) -> dict:
    """The task's metrics, 'examples' and 'step', on the run's own test set or on another dataset.

    held_out: on the test folder of a dataset that has a val folder too.
    coefficients: other ones than the network predicts, a key of `dynet_jax.train.held_coefficients.HELD`.
    changes: of the configuration, like '--config.inference=slide'; only of `FREE_IN_EVALUATION`.
    """
    run, state = load_workdir(workdir, step=step)
    config = run.config.copy_and_resolve_references()
    override(config, list(changes), only=FREE_IN_EVALUATION)
    check_config(config)
    config.data.update({"name": data or config.data.name, "data_dir": data_dir or config.data.data_dir})
    corrupt = CorruptImages(config.data.max_corrupt)
    run = dataclasses.replace(run, config=config, task=make_task(config), corrupt=corrupt)
    source = run.task.open_source("held_out" if held_out else "test")
    labels = read_class_names(workdir)
    if source.class_names != labels:
        raise UserError(f"the classes of {config.data.name} are not those that {workdir} was trained on")
    of_step = {"step": int(state.step)}
    if coefficients is not None:
        values = evaluate_held(run, state.averaged_variables, source, coefficients)
        return {**values, **of_step, "coefficients": coefficients}
    eval_step = make_eval_step(run.model, run.layout, run.task, **run.pixels)
    return {**evaluate(run, eval_step, state.averaged_variables, source), **of_step}


def predict_images(
    workdir: Path, images: Sequence[Path], count: int = 5, *, step: int | str | None = None
) -> Iterator[Prediction]:
    """The `count` most probable classes of each image, in order; a folder stands for the images in it.

    When the first prediction is asked for, UserError is raised if a path does not exist. An image that cannot be
    decoded gives a Prediction with an error.
    """
    files = [file for path in images for file in expand(path)]
    run, state = load_workdir(workdir, devices=jax.devices()[:1], step=step)
    names, data = read_class_names(workdir), run.config.data
    predict = make_predict_step(run.model, **run.pixels)
    for batch in _batched(files):
        loaded = [_load(path, data.image_size, data.resize_to) for path in batch]
        good = [image for image, error in loaded if error is None]
        probabilities = iter([])
        if good:
            padded = np.zeros((min(IMAGES_AT_ONCE, len(files)), *good[0].shape), np.uint8)  # one shape, compiled once
            padded[: len(good)] = good
            probabilities = iter(np.asarray(predict(state.averaged_variables, padded)))
        for path, (_, error) in zip(batch, loaded):
            if error is not None:
                yield Prediction(path, [], error)
                continue
            p = next(probabilities)[: len(names)]
            best = np.argsort(-p, kind="stable")[:count]
            yield Prediction(path, [(names[i], float(p[i])) for i in best])


def expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = list_images(path)
        if not files:
            raise UserError(f"there are no images in {path}")
        return files
    if not path.is_file():
        raise UserError(f"there is no image {path}")
    return [path]


def _load(path: Path, size: int, resize_to: int):
    try:
        return center_crop(decode(path.read_bytes(), str(path)), size, resize_to), None
    except (UserError, OSError) as error:
        return None, str(error)


def _batched(files):
    return (tuple(files[i : i + IMAGES_AT_ONCE]) for i in range(0, len(files), IMAGES_AT_ONCE))
