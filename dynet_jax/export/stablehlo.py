"""A trained network as one file of StableHLO, which runs with JAX alone: neither this package nor Flax is needed.

exported = jax.export.deserialize(bytearray(open("dy_mobile.stablehlo", "rb").read()))
outputs = exported.call(images)  # uint8 [batch, height, width, 3]: any batch from 1, any size
outputs["logits"], outputs["probabilities"]  # of classes; for segmentation at every position, at the network's stride
json.loads(bytes(np.asarray(outputs["metadata"])))  # class names and preprocessing
"""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dynet_jax.errors import UserError, suggest
from dynet_jax.export.formats import Option, program_of, register_export_format
from dynet_jax.inference import InferenceModel, run_jax
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.pixels import normalize

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@register_export_format(
    "stablehlo",
    help="runs with JAX alone, on any of its devices",
    options={
        "platforms": Option("of cpu, cuda, rocm, tpu; default: cpu", lambda text: tuple(text.split(",")), "NAME,...")
    },
)
def write_stablehlo(model: InferenceModel, network: str, **options) -> bytes:
    """The content of a file of `to_stablehlo`."""
    return bytes(to_stablehlo(model, **options).serialize())


def to_stablehlo(model: InferenceModel, *, platforms: Sequence[str] = ("cpu",)) -> export.Exported:
    """The network for any batch from 1, and images of any size from its strides on.

    Args:
      model: with runtime 'jax' or 'native'; its program is exported, with the banks as they are stored.
      platforms: of PLATFORMS, on which the file will run. The forms of its convolutions are those for CPUs.
    Raises:
      UserError: for an unknown platform, and a model without a program.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"unknown platform {platform!r}; {suggest(platform, PLATFORMS)}")
    program = program_of(model)
    arrays = jax.tree.map(jnp.asarray, run_jax.arrays_of(program))
    pixels = model.preprocessing.mean, model.preprocessing.std
    text = json.dumps({"class_names": model.class_names, "preprocessing": model.preprocessing.describe()})
    metadata = np.frombuffer(text.encode(), np.uint8)

    def outputs(images):
        logits = run_jax.run(program, arrays, normalize(images, *pixels))
        return {"logits": logits, "probabilities": jax.nn.softmax(logits), "metadata": jnp.asarray(metadata)}

    rows, columns = program.strides
    shape = export.symbolic_shape("b, h, w, 3", constraints=[f"h >= {rows}", f"w >= {columns}"])
    with tracing_for("cpu"):
        return export.export(jax.jit(outputs), platforms=platforms)(jax.ShapeDtypeStruct(shape, jnp.uint8))
