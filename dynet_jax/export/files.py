"""From a work directory to an exported file."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from dynet_jax.errors import UserError, suggest
from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.export.stablehlo import to_stablehlo
from dynet_jax.inference import InferenceModel, load
from dynet_jax.workdir.files import read_config


def export_workdir(
    workdir: Path,
    out: Path | None,
    *,
    format: str,
    step: int | str | None = None,
    storage: str = "float32",
    platforms: Sequence[str] | None = None,
    opset: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the network of a work directory as one file; returns its path.

    Args:
      workdir, step, storage: see `dynet_jax.inference.load`.
      out: by default WORKDIR/NETWORK.FORMAT.
      format: of FORMATS: 'stablehlo' (for `platforms`, see `to_stablehlo`) or 'onnx' (`opset`, see `program_to_onnx`).
      overwrite: whether a file that is there may be replaced.
    Raises:
      UserError: for an option of the other format, and if there is no whole checkpoint, the exporter is not installed
        or the file cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}; {suggest(format, FORMATS)}")
    for option, value, owner in (("platforms", platforms, "stablehlo"), ("opset", opset, "onnx")):
        if value is not None and format != owner:
            raise UserError(f"--{option} is of --format={owner}; leave it out for {format}")
    name = read_config(workdir).model.name
    path = Path(out or workdir / f"{name}.{format}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; name another file, or ask for --overwrite")
    model = load(workdir, step=step, runtime="jax", storage=storage)
    options = {} if platforms is None else {"platforms": platforms}
    options |= {} if opset is None else {"opset": opset}
    content = FORMATS[format](model, name, **options)
    write_whole(path, content)
    return path


def _stablehlo(model: InferenceModel, network: str, **options) -> bytes:
    return bytes(to_stablehlo(model, **options).serialize())


def _onnx(model: InferenceModel, network: str, **options) -> bytes:
    described = {**model.preprocessing._asdict(), "class_names": model.class_names, "metadata": {"network": network}}
    return program_to_onnx(model.program, **described, **options).SerializeToString()


FORMATS = {"stablehlo": _stablehlo, "onnx": _onnx}


def write_whole(path: Path, content: bytes) -> None:
    """The whole file or none. Raises UserError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
