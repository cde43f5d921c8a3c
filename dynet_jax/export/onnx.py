"""ONNX: a file that predicts without this package, from one uint8 image or more, of any size.

Input 'images', [batch, height, width, 3] uint8; outputs 'logits' and 'probabilities', [batch, classes] float32, or for
segmentation [batch, height / stride, width / stride, classes]: at the network's own stride, to be enlarged by whoever
needs it, since all classes of a large image at every pixel are gigabytes. A program has what the file needs (see
`dynet_jax.inference`), and with ONNX Runtime and NumPy alone

    session = onnxruntime.InferenceSession("network.onnx")
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    (probabilities,) = session.run(["probabilities"], {"images": images})

'preprocessing' in that map, JSON too, says how images are made: the shorter side to `resize_to`, then the central
image_size x image_size pixels. `mean` and `std` are there to be read; normalisation is part of the graph.

A static network is one graph. A dynamic one is the body of a Scan over the images, since its kernels differ between
them: at batch 1 that costs nothing that could be measured, and a batch takes as long as its images one by one.
With batch=1 there is no Scan, which tools that optimise or quantise graphs can then see through.

Banks stored in bfloat16 or int8 make the file smaller, not the runtime faster: ONNX Runtime makes float32 of them once,
when it loads the file.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import dynet_jax
from dynet_jax.errors import UserError
from dynet_jax.export.formats import Option, program_of, register_export_format
from dynet_jax.export.onnx_graph import Graph, import_onnx
from dynet_jax.export.onnx_operations import FLOAT, add_program
from dynet_jax.inference import InferenceModel, Preprocessing, ResizedPreprocessing
from dynet_jax.inference.program import Convolution, Program

if TYPE_CHECKING:
    import onnx

OPSETS = range(19, 24)  # 19 is the first whose Pad can wrap around
IMAGE_SIZE = ("height", "width")


@register_export_format(
    "onnx",
    help="runs with ONNX Runtime, OpenVINO and others",
    options={
        "opset": Option(f"the version of its operators; default: {OPSETS.start}", int, "N"),
        "batch": Option("1: one image at a time, without a Scan over images; default: any number", int, "1"),
    },
    check=import_onnx,
)
def write_onnx(model: InferenceModel, network: str, **options) -> bytes:
    """The content of a file of `program_to_onnx`."""
    notes = {"class_names": model.class_names, "metadata": {"network": network}}
    described = program_to_onnx(program_of(model), preprocessing=model.preprocessing, **notes, **options)
    return described.SerializeToString()


def program_to_onnx(
    program: Program,
    *,
    preprocessing: Preprocessing | ResizedPreprocessing,
    class_names: Sequence[str] | None = None,
    opset: int = OPSETS.start,
    batch: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> "onnx.ModelProto":
    """The model of a folded program.

    preprocessing: its mean and std are obeyed; what else the network was trained for is written down: the model takes
      every size.
    class_names: none if None or empty.
    batch: 1 for a model of one image, whose dynamic convolutions are outside of a Scan; None for any number of images.
    metadata: more to write into the file, for example {"network": "dy_mobile"}; what is no string is written as JSON.

    Raises UserError if onnx is not installed, for an opset that is not in OPSETS, another batch, for a number of
    class names that is not that of the classes, and for a network that cannot be exported.

        model = program_to_onnx(fold(record(network, variables, 224)), preprocessing=preprocessing)
    """
    onnx = import_onnx()
    if opset not in OPSETS:
        raise UserError(
            f"opset {opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}; --opset={OPSETS.start} will do in most"
        )
    if batch not in (None, 1):
        raise UserError(f"batch must be 1, or left out for any number of images, not {batch}")
    pixels = _pixels(preprocessing.mean, preprocessing.std)
    classes = _classes(program, class_names)
    graph = Graph()
    images, *results = map(graph.reserve, ("images", "logits", "probabilities"))
    axis = batch or "batch"
    size = program.image_size or IMAGE_SIZE
    if batch is None and any(
        isinstance(operation, Convolution) and operation.coefficients is not None for operation in program.operations
    ):
        logits = _image_by_image(graph, program, pixels, classes)
    else:
        logits = _network(graph, program, pixels, images, axis)
    graph.result("Identity", logits, name="logits")
    graph.result("Softmax", "logits", name="probabilities", axis=-1)
    results = [graph.tensor(name, np.float32, (axis, *_shape(program, classes))) for name in results]
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(
        graph.build("network", [graph.tensor(images, np.uint8, (axis, *size, 3))], results),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # so that older runtimes read it too
        producer_name="dynet_jax",
        producer_version=dynet_jax.__version__,
    )
    notes = {"class_names": list(class_names or ()), "preprocessing": preprocessing.describe(), **(metadata or {})}
    onnx.helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in notes.items()})
    return model


def _pixels(mean, std) -> tuple[np.ndarray, np.ndarray]:
    """Both as [1, 3, 1, 1]."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise UserError(f"mean and std are three numbers each, std positive, not {mean.tolist()} and {std.tolist()}")
    return mean.reshape(1, 3, 1, 1), std.reshape(1, 3, 1, 1)


def _classes(program: Program, class_names: Sequence[str] | None) -> int:
    classes = program.values[program.result].channels
    if class_names and len(class_names) != classes:
        raise UserError(f"there are {len(class_names)} class names for {classes} classes")
    return classes


def _shape(program: Program, classes: int) -> tuple[int | str, ...]:
    """Returns the shape of the result for one image."""
    return (classes,) if program.is_vector(program.result) else ("rows", "columns", classes)


def _network(graph: Graph, program: Program, pixels, images: str, batch: int | str) -> str:
    """Adds the network, from [batch, height, width, 3] uint8 to the program's result, whose name it returns."""
    mean, std = pixels
    x = graph.node("Transpose", images, name="images/channels_first", perm=(0, 3, 1, 2))
    x = graph.node("Cast", x, name="images/float32", to=FLOAT)
    x = graph.node("Sub", x, graph.constant(mean, "mean"), name="images/centered")
    x = graph.node("Div", x, graph.constant(std, "std"), name="images/normalized")
    y = add_program(graph, program, x, batch)
    if program.is_vector(program.result):
        return y
    return graph.node("Transpose", y, name="logits/channels_last", perm=(0, 2, 3, 1))


def _image_by_image(graph: Graph, program: Program, pixels, classes: int) -> str:
    """A Scan whose body is the network for one image."""
    body = Graph(outer=graph)
    image, axis = body.reserve("image"), body.constant([0], "batch_axis")
    x = body.node("Unsqueeze", image, axis, name="image/batch")
    y = body.node("Squeeze", _network(body, program, pixels, x, 1), axis, name="image/logits")
    inside = body.build(
        "one_image",
        [body.tensor(image, np.uint8, (*(program.image_size or IMAGE_SIZE), 3))],
        [body.tensor(y, np.float32, _shape(program, classes))],
    )
    return graph.node("Scan", "images", name="each_image", body=inside, num_scan_inputs=1)
