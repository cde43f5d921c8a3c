"""Post-training quantisation of static networks to int8 on calibration images, as users of other runtimes do it."""

import logging
import tempfile
from pathlib import Path

import numpy as np

from dynet_jax.analysis.runtimes import Cell
from dynet_jax.config.keys import KEYS
from dynet_jax.data.preprocessing import Preprocessing
from dynet_jax.errors import UserError
from dynet_jax.inference.calibration import pictures_of

IMAGES = 100  # for calibration
IMAGES_OF_NOISE = 8  # enough for a measurement of speed, which says nothing about accuracy


def calibration_images(cell: Cell) -> list[np.ndarray]:
    """Returns batches [batch, image_size, image_size, 3] uint8 of the images in the cell's folder, or else of noise.

    Raises UserError for a folder that does not exist or has no readable images.
    """
    if not cell.calibration:
        shape = (-(-IMAGES_OF_NOISE // cell.batch), cell.batch, cell.image_size, cell.image_size, 3)
        return list(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
    size = cell.image_size
    prepare = Preprocessing(size, round(size * 256 / 224), KEYS["data.mean"].default, KEYS["data.std"].default)
    images = [prepare(picture) for picture in pictures_of(Path(cell.calibration), IMAGES)]
    if not images:
        raise UserError(f"none of the images in {cell.calibration} can be decoded")
    images += images[: -len(images) % cell.batch] if len(images) >= cell.batch else images * cell.batch
    return [np.stack(images[i : i + cell.batch]) for i in range(0, len(images) // cell.batch * cell.batch, cell.batch)]


def check_calibration(folder: str) -> None:
    """Raises UserError unless the folder has an image; called before an hour of measurements."""
    if not Path(folder).is_dir():
        raise UserError(f"--calibrate={folder} is not a folder; it must hold images, optionally in class folders")
    if next(pictures_of(Path(folder)), None) is None:
        raise UserError(f"none of the images in --calibrate={folder} can be decoded")


def by_nncf(network, cell: Cell):
    """Returns an OpenVINO model quantised by NNCF's defaults."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf  # pyrefly: ignore[missing-import]  (of those who measure it)

    batches = calibration_images(cell)
    return nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))


def by_onnx_runtime(network: bytes, cell: Cell) -> bytes:
    """Returns an ONNX file with quantised weights and maps (QDQ), with one scale per output channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Batches(CalibrationDataReader):
        def __init__(self):
            self._batches = iter(calibration_images(cell))

        def get_next(self):  # pyrefly: ignore[bad-override]  (None ends it)
            images = next(self._batches, None)
            return None if images is None else {"images": images}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantized.onnx"
        model = onnx.load_from_string(network)
        quantize_static(model, file, Batches(), quant_format=QuantFormat.QDQ, per_channel=True)
        return file.read_bytes()
