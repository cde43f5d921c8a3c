"""Use of a trained work directory: evaluating it again, and classifying images."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.config.load import check_config, override
from dynet_jax.console import say
from dynet_jax.data.contents import describe
from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.evaluation.evaluate import evaluate
from dynet_jax.evaluation.held_coefficients import evaluate_held
from dynet_jax.evaluation.placed import PlacedNetwork
from dynet_jax.evaluation.step import make_eval_step
from dynet_jax.hardware import devices
from dynet_jax.inference.model import Runtime, load, model_of, read_ahead
from dynet_jax.inference.pictures import Picture, list_pictures
from dynet_jax.inference.predictions import Prediction
from dynet_jax.memory import images_at_once
from dynet_jax.tasks.task import make_task
from dynet_jax.trained import TrainedNetwork, open_trained
from dynet_jax.workdir.changes import FREE_IN_EVALUATION
from dynet_jax.workdir.files import read_config


def evaluate_workdir(
    workdir: Path,
    data: str | None = None,
    data_dir: str | None = None,
    *,
    step: int | str | None = None,
    held_out: bool = False,
    changes: Sequence[str] = (),
    coefficients: str | None = None,
    batch: int | None = None,
    arithmetic: str | None = None,
    calibrate: Path | None = None,
) -> dict:
    """Returns the task's metrics, 'examples' and 'step', on the run's own test set or on another dataset.

    held_out: whether to use the test folder of a dataset that has a val folder too.
    coefficients: replacement of the predicted ones, a key of `dynet_jax.evaluation.held_coefficients.HELD`.
    batch: number of images processed at once; the default fits the memory of any device. It does not change the
      metrics.
    arithmetic, calibrate: options of the native engine, which is evaluated instead of the network in JAX if arithmetic
      is given; see `dynet_jax.inference.load`.
    changes: changes of the configuration, like '--config.inference=slide'; only keys of `FREE_IN_EVALUATION`.
    """
    if calibrate is not None and arithmetic is None:
        raise UserError("images for calibration are for int8 arithmetic; add --arithmetic=int8")
    devices()  # stops if the CPU was not intended: a test set would take too long on it
    trained = open_trained(workdir, step=step)
    config = trained.config.copy_and_resolve_references()
    override(config, list(changes), only=FREE_IN_EVALUATION)
    check_config(config)
    trained = dataclasses.replace(trained, config=config).with_data(data, data_dir)
    network = place(trained, batch)
    source = trained.open_source("held_out" if held_out else "test")
    for line in describe({"test": source}):
        say(line)
    if arithmetic is not None:
        if coefficients is not None:
            raise UserError("other coefficients are of the network in JAX; leave out --arithmetic")
        engine = _of_engine(trained, network, arithmetic, calibrate)
        return {**evaluate(network, engine, {}, source), "step": trained.step}  # pyrefly: ignore[invalid-argument]
    variables, of_step = jax.device_put(trained.variables, network.layout.replicated), {"step": trained.step}
    if coefficients is not None:
        values = evaluate_held(network, variables, source, coefficients)
        return {**values, **of_step, "coefficients": coefficients}
    eval_step = make_eval_step(network.model, network.layout, network.task, **network.pixels)
    # pyrefly: ignore[invalid-argument]  (None is for a vote alone)
    return {**evaluate(network, eval_step, variables, source), **of_step}


def _of_engine(trained: TrainedNetwork, network: PlacedNetwork, arithmetic: str, calibrate: Path | None) -> Callable:
    """Returns a function (variables, batch) -> sums, like `make_eval_step`, computed by the native engine."""
    if network.config.get("inference", "whole") != "whole":
        raise UserError(
            "the native engine is evaluated on whole images, not on sliding windows; leave out --arithmetic"
        )
    # The network is already open; its training images may have been moved.
    model = model_of(trained, calibrate, runtime="native", storage="float32", arithmetic=arithmetic, threads=None)

    @jax.jit
    def sums(logits, batch):
        values = network.task.evaluate(lambda images: logits, batch["image"], batch)
        return {**values, "examples": jnp.sum(batch["mask"])}

    return lambda variables, batch: sums(model.logits(np.asarray(batch["image"])), batch)


def place(trained: TrainedNetwork, batch: int | None = None) -> PlacedNetwork:
    """Returns a trained network on all devices, to be evaluated with this number of images at once."""
    found = devices()
    layout = make_layout(len(found), bn_batch_size=1, devices=found)  # evaluation has no BatchNorm groups
    corrupt = CorruptImages(trained.config.data.max_corrupt)
    if batch is None:
        size = trained.task.blank(training=False)["image"].shape
        batch = len(found) * images_at_once(size, most=trained.config.batch_size)
    return PlacedNetwork(trained.config, layout, trained.model, corrupt, batch=batch)


def predict_images(
    workdir: Path,
    images: Sequence[Picture],
    count: int = 5,
    *,
    step: int | str | None = None,
    runtime: Runtime = "auto",
    threads: int | None = None,
    batch: int | None = None,
    arithmetic: str = "float32",
    calibrate: Path | None = None,
) -> Iterator[Prediction]:
    """Yields the predictions for each image, in order; a folder stands for the images in it.

    A prediction has the `count` most probable classes or, for a segmentation network, the class of every pixel.
    runtime, threads, arithmetic, calibrate: see `dynet_jax.inference.load`.
    batch: number of images that a classifier processes at once; None fits the memory of any device.

    Raises UserError at the first prediction if a path does not exist. An image that cannot be decoded gives a
    Prediction with an error.
    """
    pictures = list_pictures(images)
    preprocessing = make_task(read_config(workdir)).preprocessing()
    with read_ahead(pictures, preprocessing, threads) as ready:  # decodes while the network is loaded
        how = {"runtime": runtime, "threads": threads, "arithmetic": arithmetic, "calibrate": calibrate}
        yield from load(workdir, step=step, **how).predictions(ready, count, batch)
