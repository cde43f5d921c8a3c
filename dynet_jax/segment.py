"""Use of a segmentation network: class maps of images, and pictures of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dynet_jax.bucket import told
from dynet_jax.errors import UserError
from dynet_jax.inference.pictures import list_pictures
from dynet_jax.predict import predict_images
from dynet_jax.tasks.overlay import overlay
from dynet_jax.workdir.files import read_class_names


class Segmented(NamedTuple):
    """The files written for an image and the shares of its classes, in descending order, or an error."""

    path: Path
    labels: Path | None = None
    overlay: Path | None = None
    shares: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def segment_images(
    workdir: Path,
    images: Sequence[Path],
    out: Path,
    **how: Any,
) -> Iterator[Segmented]:
    """Writes OUT/NAME.labels.png (classes from 0) and OUT/NAME.overlay.png for each image; yields what was written.

    images: files, or folders of images.
    how: step, runtime, threads, arithmetic and calibrate of `dynet_jax.inference.load`.

    Raises UserError at the first image if a path does not exist, two images have the same name, or OUT cannot be
    written.
    """
    files = list_pictures(images)
    twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if twice:
        raise UserError(f"several images are called {twice[0]}; their files in {out} would be the same")
    names = read_class_names(workdir)
    try:
        with told(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    predictions = predict_images(workdir, files, **how)
    for path, (*_, error, image, classes) in zip(files, predictions, strict=True):
        if image is None or classes is None:
            yield Segmented(path, error=error or f"the network of {workdir} is not one for segmentation")
            continue
        written = out / f"{path.stem}.labels.png", out / f"{path.stem}.overlay.png"
        _write_png(written[0], classes)
        _write_png(written[1], overlay(image, classes, names)[..., ::-1])
        shares = np.bincount(classes.ravel(), minlength=len(names)) / classes.size
        order = np.argsort(-shares, kind="stable")
        yield Segmented(path, *written, tuple((names[i], float(shares[i])) for i in order if shares[i] > 0))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    try:
        with told(path):
            path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
