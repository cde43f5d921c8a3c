"""The runtimes that `dynet benchmark` includes: one function each."""

import importlib.util
from typing import Any

import numpy as np

from dynet_jax.analysis.latency_networks import random_program
from dynet_jax.analysis.post_training import by_nncf, by_onnx_runtime, calibration_images
from dynet_jax.analysis.runtimes import Call, Cell, random_images, register_runtime
from dynet_jax.config.keys import KEYS
from dynet_jax.errors import UserError
from dynet_jax.inference import InferenceModel, Preprocessing
from dynet_jax.inference.int8 import find_ranges
from dynet_jax.inference.model import Runtime
from dynet_jax.inference.native.engine import Engine, has_bfloat16
from dynet_jax.inference.program import Convolution, Predictor
from dynet_jax.models.registry import model_info
from dynet_jax.number_formats import NUMBERS

MEAN, STD = KEYS["data.mean"].default, KEYS["data.std"].default  # ImageNet's, for pixels from 0 to 255


def _native_problem() -> str | None:
    try:
        has_bfloat16()
    except UserError as error:
        return str(error)
    return None


def _native_numbers() -> tuple[str, ...]:
    has = ("float32", "int8", "bfloat16") if has_bfloat16() else ("float32", "int8")
    return tuple(name for name, (_, arithmetic) in NUMBERS.items() if arithmetic in has)


@register_runtime("native", numbers=_native_numbers, problem=_native_problem)
def native(cell: Cell) -> Call:
    """The engine of this package."""
    return inference_model(cell, "native").logits


@register_runtime("jax", packages=("jax", "jaxlib"), threads="as many as the process has cores")
def xla(cell: Cell) -> Call:
    """JAX, by XLA."""
    return inference_model(cell, "jax").logits


# Spinning takes about 0.03 s of each thread's time; without it each run would have to wake the threads.
@register_runtime(
    "onnxruntime",
    packages=("onnx", "onnxruntime"),
    numbers=("float32", "int8"),
    static_numbers=("int8",),
    seconds_of_spinning=0.1,
)
def onnx_runtime(cell: Cell) -> Call:
    """ONNX Runtime, which optimises the graph that `dynet export` writes; in int8 quantised by its own tool (QDQ)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = cell.threads, 1
    options.log_severity_level = 3
    for name, size in (("batch", cell.batch), ("height", cell.image_size), ("width", cell.image_size)):
        options.add_free_dimension_override_by_name(name, size)
    network = onnx_file(cell)
    if cell.numbers == "int8":
        network = by_onnx_runtime(network, cell)
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


def _openvino_numbers() -> tuple[str, ...]:
    import openvino

    offered = ("float32", "bfloat16") if _has_bfloat16(openvino.Core()) else ("float32",)
    return (*offered, "int8") if importlib.util.find_spec("nncf") else offered


def _has_bfloat16(core) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@register_runtime("openvino", packages=("onnx", "openvino"), numbers=_openvino_numbers, static_numbers=("int8",))
def openvino(cell: Cell) -> Call:
    """OpenVINO, from the same ONNX file; in int8 quantised by NNCF.

    It computes in bfloat16 if the processor supports that, unless float32 is asked for; this includes operations that
    int8 leaves out.
    """
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": cell.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if cell.numbers == "float32" or not _has_bfloat16(core) else "bf16",
    }
    network = core.read_model(onnx_file(cell))
    network.reshape({"images": [cell.batch, cell.image_size, cell.image_size, 3]})
    if cell.numbers == "int8":
        network = by_nncf(network, cell)
    compiled = core.compile_model(network, "CPU", options)
    request, logits = compiled.create_infer_request(), compiled.output("logits")
    return lambda images: request.infer({"images": images}, share_inputs=True)[logits]


@register_runtime(
    "torch",
    packages=("torch", "torchvision"),
    shares_weights=False,
    has=lambda network, width: model_info(network).torchvision is not None and width == 1,
)
def torch(cell: Cell) -> Call:
    """PyTorch with torchvision's networks and random weights, traced and frozen: BatchNorms are folded."""
    import torch
    import torchvision

    torch.set_num_threads(cell.threads)
    name = model_info(cell.network).torchvision
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))

    class Normalized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = torchvision.models.get_model(name, weights=None)

        def forward(self, images):
            return self.network((images.permute(0, 3, 1, 2).float() - mean) / std)

    example = torch.zeros((cell.batch, cell.image_size, cell.image_size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        traced = torch.jit.optimize_for_inference(torch.jit.trace(Normalized().eval(), example))

    @torch.inference_mode()
    def call(images):
        return traced(torch.from_numpy(images)).numpy()

    return call


def native_parts(cell: Cell, runs: int) -> tuple[float, ...]:
    """Returns median seconds of the native engine's predictors, fusion, convolutions and the rest, for one image."""
    engine: Engine = inference_model(cell, "native").engine  # pyrefly: ignore[bad-assignment]  (of native, never None)
    image = random_images(cell)[:1]
    engine.profile(image)  # allocates memory
    *times, fusion = np.median([engine.profile(image) for _ in range(runs)], axis=0)
    kinds = [type(operation) for operation in engine.program.operations]
    predictors, convolutions = (
        sum(seconds for seconds, kind in zip(times, kinds) if kind is wanted) for wanted in (Predictor, Convolution)
    )
    parts = predictors - fusion, fusion, convolutions, sum(times) - predictors - convolutions
    return tuple(map(float, parts))


def inference_model(cell: Cell, runtime: Runtime) -> InferenceModel:
    """Returns the network of a cell with random weights, in a runtime of `dynet_jax.inference`."""
    program = random_program(cell.network, cell.width)
    preprocessing = Preprocessing(cell.image_size, cell.image_size, MEAN, STD)
    storage, arithmetic = NUMBERS[cell.numbers]
    options: dict[str, Any] = {"storage": storage, "arithmetic": arithmetic, "threads": cell.threads}
    if arithmetic == "int8":
        options["ranges"] = find_ranges(program, preprocessing, calibration_images(cell))
    return InferenceModel(program, preprocessing, runtime=runtime, **options)


def onnx_file(cell: Cell) -> bytes:
    """Returns the ONNX file of a cell's network with random weights, from bytes to logits."""

    from dynet_jax.export.onnx import program_to_onnx

    program = random_program(cell.network, cell.width)
    preprocessing = Preprocessing(cell.image_size, cell.image_size, MEAN, STD)
    return program_to_onnx(program, preprocessing=preprocessing).SerializeToString()
