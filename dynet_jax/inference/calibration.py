"""Which images the ranges of int8 maps are chosen by: those of a folder, or a network's own training images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynet_jax.data.subset import spread
from dynet_jax.errors import UserError
from dynet_jax.inference.pictures import list_pictures, read_picture
from dynet_jax.memory import images_at_once
from dynet_jax.trained import TrainedNetwork

IMAGES = 256


def calibration_batches(trained: TrainedNetwork, folder: Path | str | None) -> Iterator[np.ndarray]:
    """Yields [batch, height, width, 3] uint8, prepared as in evaluation; at most IMAGES in all, from all over the data.

    Images that cannot be decoded are passed over.
    Raises UserError for a folder without images, and without a folder if the training images are not on this machine.
    """
    images = _of_training(trained) if folder is None else map(trained.preprocessing, pictures_of(Path(folder)))
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == images_at_once(image.shape, most=32):
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def pictures_of(folder: Path, count: int = IMAGES) -> Iterator[np.ndarray]:
    """Yields pictures of a folder as they are; at most `count`, from all over it, without those that cannot be decoded.

    A folder of class folders is listed class by class. Raises UserError if it is not there, or has no images.
    """
    paths = list_pictures(folder)
    count = min(count, len(paths))
    for number in range(count):
        try:
            yield read_picture(paths[number * len(paths) // count])
        except (UserError, OSError):
            continue


def _of_training(trained: TrainedNetwork) -> Iterator[np.ndarray]:
    try:
        source = trained.task.open_source("train")
    except UserError as error:
        raise UserError(
            f"int8 arithmetic chooses the ranges of maps by images, and those of the training are not here ({error}); "
            "name a folder of others by --calibrate=FOLDER"
        ) from error
    prepare, records = trained.task.evaluation_transform(), spread(source, IMAGES)
    for index in range(len(records)):
        try:
            yield np.asarray(prepare(records[index])["image"])
        except (UserError, OSError):
            continue
