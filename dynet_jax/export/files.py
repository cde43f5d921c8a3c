"""From a work directory to an exported file."""

import contextlib
import os
from pathlib import Path
from typing import Any

from dynet_jax import bucket
from dynet_jax.console import warn
from dynet_jax.errors import UserError
from dynet_jax.export.formats import check_options, export_format
from dynet_jax.inference import InferenceModel, program_of
from dynet_jax.inference.calibration import calibration_batches
from dynet_jax.inference.int8 import find_ranges
from dynet_jax.pretrained import is_pretrained
from dynet_jax.trained import TrainedNetwork, open_trained
from dynet_jax.workdir.files import read_config


def export_workdir(
    workdir: Path,
    out: Path | None,
    *,
    format: str,
    step: int | str | None = None,
    storage: str = "float32",
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write the network of a work directory as one file; returns its path.

    Args:
      workdir, step, storage: see `dynet_jax.inference.load`.
      out: by default WORKDIR/NETWORK.SUFFIX, or NETWORK.SUFFIX here for a network of the package.
      format: the name of one that is registered (see `dynet_jax.export.formats`), such as 'stablehlo', 'onnx' and
        'native'.
      overwrite: whether a file that is there may be replaced.
      options: of the format: `platforms` of stablehlo (see `to_stablehlo`), `opset` and `batch` of onnx (see
        `program_to_onnx`), `arithmetic` and `calibrate` of native (see `write_native`).
    Raises:
      UserError: for an option of another format, and if there is no whole checkpoint, the network cannot be exported,
        the exporter is not installed or the file cannot be written.
    """
    chosen = export_format(format)
    check_options(chosen, options)
    chosen.check()
    name = read_config(workdir).model.name
    folder = Path() if is_pretrained(workdir) else workdir
    path = bucket.place(out or folder / f"{name}.{chosen.suffix}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; name another file, or ask for --overwrite")
    trained = open_trained(workdir, step=step)
    write_whole(path, chosen.write(_model(trained, storage, any_network=chosen.any_network), name, **options))
    return path


def _model(trained: TrainedNetwork, storage: str, *, any_network: bool) -> InferenceModel:
    """The network as a program; as the module that it is where it has to be, and may."""
    try:
        program = program_of(trained.model, trained.variables, trained.task.init_size)
    except UserError as error:
        if not any_network or storage != "float32":
            raise
        warn(f"the Flax module is exported as it is: {error}")
        return InferenceModel.of_module(trained.model, trained.variables, trained.preprocessing, trained.output_names)
    model = InferenceModel(program, trained.preprocessing, trained.output_names, runtime="jax", storage=storage)
    model.find_ranges = lambda folder: find_ranges(program, trained.preprocessing, calibration_batches(trained, folder))
    return model


def write_whole(path: Path, content: bytes) -> None:
    """The whole file or none. Raises UserError if it cannot be written."""
    if bucket.is_bucket(path):
        with bucket.told(path):
            bucket.write(path, content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
