"""A trained network as one file for the native engine, which C programs and Python with NumPy alone can run.

model = dynet_runtime.load("dy_mobile.dynet")
model.top(picture)  # uint8 [height, width, 3] of any size: the most probable classes

docs/deploy.md shows the same in C; docs/native_format.md describes the file byte by byte.
"""

from pathlib import Path

from dynet_jax.errors import UserError, suggest
from dynet_jax.export.formats import Option, program_of, register_export_format
from dynet_jax.inference.model import ARITHMETIC, InferenceModel
from dynet_jax.inference.native.file import Numbers, write_file


@register_export_format(
    "native",
    suffix="dynet",
    help="runs with this package's engine, from C, and from Python with NumPy alone",
    options={
        "arithmetic": Option("of maps and kernels: float32, bfloat16 or int8; default: float32", metavar="TYPE"),
        "calibrate": Option("images to choose the ranges of int8 maps by; default: the run's own", Path, "DIR"),
    },
)
def write_native(
    model: InferenceModel, network: str, *, arithmetic: str = "float32", calibrate: Path | None = None
) -> bytes:
    """Returns the content of a file.

    Args:
      model: its program is exported, with weights stored as its own are.
      network: the name that the file has in it.
      arithmetic: see `dynet_jax.inference.load`.
      calibrate: for int8 arithmetic, a folder of images; None is the training images of the work directory.
    Raises:
      UserError: for an operation that the engine does not have, and for int8 arithmetic without images.
    """
    if arithmetic not in ARITHMETIC:
        raise UserError(f"unknown arithmetic {arithmetic!r}; {suggest(arithmetic, ARITHMETIC)}")
    if calibrate is not None and arithmetic != "int8":
        raise UserError(f"images for calibration are for int8 arithmetic, not for {arithmetic}")
    program, ranges = program_of(model), None
    if arithmetic == "int8":
        if model.find_ranges is None:
            raise UserError("int8 arithmetic needs images to choose the ranges of maps by; export a work directory")
        ranges = model.find_ranges(calibrate)
    numbers = Numbers(model.storage, arithmetic, ranges)
    content, _ = write_file(program, numbers, model.preprocessing, name=network, class_names=model.class_names)
    return content
