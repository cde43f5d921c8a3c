"""The variables of a network as one safetensors file: half precision for what is large, and no pickle."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynet_jax.errors import UserError, named
from dynet_jax.ops.outline import tracing_outlines

SEPARATOR = "/"


def variable_shapes(model: nn.Module, image_size: int) -> dict[str, Any]:
    """Returns the shapes of a network's parameters and statistics, {'params': ..., 'batch_stats': ...}."""
    images = jnp.zeros((1, image_size, image_size, 3))
    with tracing_outlines():
        variables = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def write_weights(file: Path, variables: dict[str, Any]) -> None:
    """Writes {'params': ..., 'batch_stats': ...}; arrays of two and more axes in float16, others in float32.

    BatchNorm's statistics and biases span more than float16 holds, and are small.

    Raises UserError if a value does not fit in float16.
    """
    from safetensors.numpy import save_file

    tensors = {}
    for name, value in traverse_util.flatten_dict(variables, sep=SEPARATOR).items():
        array = np.asarray(value, np.float32)
        if array.ndim >= 2:
            if np.max(np.abs(array), initial=0.0) > np.finfo(np.float16).max:
                raise UserError(f"{name} has values that float16 cannot hold")
            array = array.astype(np.float16)
        tensors[name] = np.ascontiguousarray(array)
    save_file(tensors, file)
    file.chmod(0o644)  # safetensors lets only its owner read it


def read_weights(file: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of a file of `write_weights` as float32 NumPy arrays.

    Args:
      shapes: see `variable_shapes`.
    Raises:
      UserError: if the file cannot be read, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read as weights ({named(error)})") from error
    wanted = traverse_util.flatten_dict(shapes, sep=SEPARATOR, keep_empty_nodes=True)
    wanted = {name: leaf.shape for name, leaf in wanted.items() if hasattr(leaf, "shape")}
    different = [name for name in {*found, *wanted} if name not in found or wanted.get(name) != found[name].shape]
    if different:
        raise UserError(f"{file} is of another network: {len(different)} arrays differ, such as {min(different)}")
    flat = {name: array.astype(np.float32) for name, array in found.items()}
    return {name: {} for name in shapes} | traverse_util.unflatten_dict(flat, sep=SEPARATOR)
