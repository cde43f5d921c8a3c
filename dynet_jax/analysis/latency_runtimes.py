"""What can run a network on this machine's processor, for `dynet benchmark`: a class for each runtime."""

import functools
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from dynet_jax.analysis.latency_networks import random_program
from dynet_jax.errors import UserError
from dynet_jax.inference import InferenceModel, Preprocessing
from dynet_jax.inference.native.build import build
from dynet_jax.inference.native.library import has_bfloat16
from dynet_jax.inference.program import Convolution, Predictor
from dynet_jax.number_formats import NUMBERS

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, for pixels from 0 to 255
Call = Callable[[np.ndarray], np.ndarray]  # [batch, height, width, 3] uint8 -> logits [batch, classes]


class Cell(NamedTuple):
    """One thing that is timed.

    pair: the dynamic network of the comparison; network: that one, or its base.
    numbers: a key of NUMBERS.
    """

    pair: str
    network: str
    runtime: str
    numbers: str
    threads: int
    image_size: int
    batch: int
    width: float = 1.0

    @property
    def is_dynamic(self) -> bool:
        return self.network == self.pair


class Runtime:
    """All runtimes get the same bytes and normalise them within the time that is measured.

    Attributes:
      packages: what must be installed. offered: keys of NUMBERS.
      shares_weights: whether its networks are made of our programs, so that logits can be compared.
      seconds_of_spinning: for which its threads wait for more work by looking, after a run. Within its turn that is to
        its advantage, as it is to the native engine's, whose threads sleep after 0.2 ms.
    """

    packages: tuple[str, ...] = ()
    offered: tuple[str, ...] = ("float32",)
    shares_weights = True
    seconds_of_spinning = 0.0

    def missing(self) -> str | None:
        """What to do in order to have it; None if it is there."""
        if all(map(importlib.util.find_spec, self.packages)):
            return None
        return f"not installed; pip install {' '.join(self.packages)}"

    def versions(self) -> str:
        return ", ".join(f"{package} {version(package)}" for package in self.packages)

    def has(self, network: str, width: float) -> bool:
        """Whether it has this network."""
        return True

    def prepare(self, cell: Cell) -> Call:
        """The network, compiled for cell.threads threads. Raises whatever the runtime raises if it cannot."""
        raise NotImplementedError


class Jax(Runtime):
    """XLA. It takes as many threads as the process may use cores."""

    packages = ("jax", "jaxlib")

    def prepare(self, cell: Cell) -> Call:
        return _inference_model(cell, "jax").logits


class Native(Runtime):
    """The engine of this package."""

    @functools.cached_property
    def offered(self) -> tuple[str, ...]:
        exact = tuple(name for name, (_, arithmetic) in NUMBERS.items() if arithmetic == "float32")
        return tuple(NUMBERS) if has_bfloat16() else exact

    def missing(self) -> str | None:
        try:
            build()
        except UserError as error:
            return str(error)
        return None

    def versions(self) -> str:
        return f"dynet_jax {version('dynet_jax')}"

    def prepare(self, cell: Cell) -> Call:
        return _inference_model(cell, "native").logits


class OnnxRuntime(Runtime):
    """ONNX Runtime, which optimises the graph that `dynet_jax.export` writes."""

    packages = ("onnx", "onnxruntime")
    seconds_of_spinning = 0.1  # about 0.03 of each thread's time; without spinning each run would have to wake them

    def prepare(self, cell: Cell) -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = cell.threads, 1
        options.log_severity_level = 3
        for name, size in (("batch", cell.batch), ("height", cell.image_size), ("width", cell.image_size)):
            options.add_free_dimension_override_by_name(name, size)
        session = onnxruntime.InferenceSession(_onnx(cell), options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"images": images})[0]


class OpenVino(Runtime):
    """OpenVINO, from the same ONNX file. In bfloat16, its own choice where the processor has that, it also computes."""

    packages = ("onnx", "openvino")

    @functools.cached_property
    def offered(self) -> tuple[str, ...]:
        import openvino

        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("float32", "bfloat16") if "BF16" in capabilities else ("float32",)

    def prepare(self, cell: Cell) -> Call:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": cell.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[cell.numbers],
        }
        core = openvino.Core()
        network = core.read_model(_onnx(cell))
        network.reshape({"images": [cell.batch, cell.image_size, cell.image_size, 3]})
        compiled = core.compile_model(network, "CPU", options)
        request, logits = compiled.create_infer_request(), compiled.output("logits")
        return lambda images: request.infer({"images": images}, share_inputs=True)[logits]


class Torch(Runtime):
    """PyTorch with torchvision's networks and random weights, traced and frozen: BatchNorms are folded."""

    packages = ("torch", "torchvision")
    shares_weights = False
    NAMES = {  # noqa: RUF012
        "mobilenet_v2": "mobilenet_v2",
        "mobilenet_v3_small": "mobilenet_v3_small",
        "mobilenet_v3_large": "mobilenet_v3_large",
        "resnet18": "resnet18",
        "resnet50": "resnet50",
        "shufflenet_v2": "shufflenet_v2_x1_0",
    }

    def has(self, network: str, width: float) -> bool:
        return network in self.NAMES and width == 1

    def prepare(self, cell: Cell) -> Call:
        import torch
        import torchvision

        torch.set_num_threads(cell.threads)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))

        class Normalized(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = torchvision.models.get_model(Torch.NAMES[cell.network], weights=None)

            def forward(self, images):
                return self.network((images.permute(0, 3, 1, 2).float() - mean) / std)

        example = torch.zeros((cell.batch, cell.image_size, cell.image_size, 3), dtype=torch.uint8)
        with torch.inference_mode():
            traced = torch.jit.optimize_for_inference(torch.jit.trace(Normalized().eval(), example))

        @torch.inference_mode()
        def call(images):
            return traced(torch.from_numpy(images)).numpy()

        return call


RUNTIMES: dict[str, Runtime] = {
    "native": Native(),
    "jax": Jax(),
    "onnxruntime": OnnxRuntime(),
    "openvino": OpenVino(),
    "torch": Torch(),
}


def random_images(cell: Cell) -> np.ndarray:
    """[batch, image_size, image_size, 3] uint8"""
    shape = (cell.batch, cell.image_size, cell.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def native_parts(cell: Cell, runs: int) -> tuple[float, float, float, float]:
    """Median seconds of the native engine's predictors, fusion, convolutions and the rest, for one image."""
    engine, image = _inference_model(cell, "native").engine, random_images(cell)[:1]
    engine.profile(image)  # allocates
    *times, fusion = np.median([engine.profile(image) for _ in range(runs)], axis=0)
    kinds = [type(operation) for operation in engine.program.operations]
    predictors, convolutions = (
        sum(seconds for seconds, kind in zip(times, kinds) if kind is wanted) for wanted in (Predictor, Convolution)
    )
    parts = predictors - fusion, fusion, convolutions, sum(times) - predictors - convolutions
    return tuple(map(float, parts))


def _inference_model(cell: Cell, runtime: str) -> InferenceModel:
    program = random_program(cell.network, cell.width)
    preprocessing = Preprocessing(cell.image_size, cell.image_size, MEAN, STD)
    storage, arithmetic = NUMBERS[cell.numbers]
    options = {"storage": storage, "arithmetic": arithmetic, "threads": cell.threads}
    return InferenceModel(program, preprocessing, runtime=runtime, **options)


def _onnx(cell: Cell) -> bytes:
    from dynet_jax.export.onnx import program_to_onnx

    program = random_program(cell.network, cell.width)
    return program_to_onnx(program, mean=MEAN, std=STD, image_size=cell.image_size).SerializeToString()
