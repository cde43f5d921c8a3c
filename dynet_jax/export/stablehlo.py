"""A trained network as one file of StableHLO, which runs with JAX alone: neither this package nor Flax is needed.

exported = jax.export.deserialize(bytearray(open("dy_mobile.stablehlo", "rb").read()))
outputs = exported.call(images)  # uint8 [batch, height, width, 3]: any batch from 1, any size
outputs["logits"], outputs["probabilities"]  # of classes; for segmentation at every position, at the network's stride
json.loads(bytes(np.asarray(outputs["metadata"])))  # class names and preprocessing
"""

import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dynet_jax.errors import UserError, one_line, suggest
from dynet_jax.export.formats import Option, register_export_format
from dynet_jax.inference import InferenceModel, ResizedPreprocessing, run_jax
from dynet_jax.inference.program import Program
from dynet_jax.inference.record import evaluation_of
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.pixels import normalize

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@register_export_format(
    "stablehlo",
    help="runs with JAX alone, on any of its devices; takes any network",
    any_network=True,
    options={
        "platforms": Option("of cpu, cuda, rocm, tpu; default: cpu", lambda text: tuple(text.split(",")), "NAME,...")
    },
)
def write_stablehlo(model: InferenceModel, network: str, **options) -> bytes:
    """The content of a file of `to_stablehlo`."""
    return bytes(to_stablehlo(model, **options).serialize())


def to_stablehlo(model: InferenceModel, *, platforms: Sequence[str] = ("cpu",)) -> export.Exported:
    """The network for any batch from 1, and images of any size from its strides on.

    A network that does not work for every size is exported for images of one: that of its program, or of the
    preprocessing of a model without one.

    Args:
      model: with runtime 'jax' or 'native'; its program is exported, with the banks as they are stored, or its module,
        which is any Flax network.
      platforms: of PLATFORMS, on which the file will run. The forms of its convolutions are those for CPUs.
    Raises:
      UserError: for an unknown platform, and for a module that JAX cannot export for any number of images.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"unknown platform {platform!r}; {suggest(platform, PLATFORMS)}")
    text = json.dumps({"class_names": model.class_names, "preprocessing": model.preprocessing.describe()})
    metadata = np.frombuffer(text.encode(), np.uint8)
    function, sizes = _of_module(model) if model.program is None else _of_program(model.program)

    def outputs(images):
        logits = function(normalize(images, model.preprocessing.mean, model.preprocessing.std))
        return {"logits": logits, "probabilities": jax.nn.softmax(logits), "metadata": jnp.asarray(metadata)}

    for number, (shape, constraints) in enumerate(sizes, start=1):
        images = jax.ShapeDtypeStruct(export.symbolic_shape(shape, constraints=constraints), jnp.uint8)
        try:
            with tracing_for("cpu"):
                return export.export(jax.jit(outputs), platforms=platforms)(images)
        except Exception as error:  # JAX and Flax raise many kinds where a network does what no symbol can
            if number == len(sizes):
                raise UserError(f"JAX cannot export this network: {one_line(error, limit=200)}") from error
    raise AssertionError("there is at least one size")


def _of_program(program: Program) -> tuple[Callable, Sequence[tuple[str, Sequence[str]]]]:
    """A function of normalised images, and the shapes of images that it takes, with constraints."""
    arrays = jax.tree.map(jnp.asarray, run_jax.arrays_of(program))
    rows, columns = program.strides
    shape = ("b, h, w, 3", [f"h >= {rows}", f"w >= {columns}"])
    if program.image_size is not None:
        shape = ("b, {}, {}, 3".format(*program.image_size), [])
    return lambda images: run_jax.run(program, arrays, images), [shape]


def _of_module(model: InferenceModel) -> tuple[Callable, Sequence[tuple[str, Sequence[str]]]]:
    """The same of a Flax module: for any size if JAX can export it so, otherwise for that of the preprocessing."""
    assert model.module is not None
    module, variables = model.module
    preprocessing = model.preprocessing
    size = preprocessing.size if isinstance(preprocessing, ResizedPreprocessing) else (preprocessing.image_size,) * 2
    apply = evaluation_of(module, variables)
    return apply, [("b, h, w, 3", []), ("b, {}, {}, 3".format(*size), [])]
