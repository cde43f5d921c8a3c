"""Weights of torchvision's and timm's networks for the static networks of this package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.errors import UserError
from dynet_jax.models.network import Network
from dynet_jax.models.registry import create_model, model_info
from dynet_jax.models.torch_names import SCHEMES, layer_names

# What a PyTorch checkpoint wraps a state dict in, and what it holds that is no weight.
WRAPPERS = ("state_dict", "model", "model_state_dict")
IGNORED = "num_batches_tracked"


class TorchTensor(NamedTuple):
    """Where a parameter of ours comes from: name and shape there, and how its value is turned into ours."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz, .safetensors, .pth, .pt or .bin file; the last three need PyTorch installed.

    Only tensors are read: code in a pickle is not run. Raises UserError if the file cannot be read.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    readers |= dict.fromkeys((".pth", ".pt", ".bin"), _read_pickle)
    if file.suffix not in readers:
        raise UserError(f"{file} is none of {', '.join(readers)}")
    try:
        return readers[file.suffix](file)
    except ImportError as error:
        raise UserError(f"reading a {file.suffix} file needs {error.name}: pip install {error.name}") from error
    except UserError:
        raise
    except Exception as error:  # each library has its own for a file that is cut short or is something else
        reason = str(error).partition("\n")[0].partition(". ")[0][:200]
        raise UserError(f"{file} cannot be read as weights ({type(error).__name__}: {reason})") from error


def create_from_torch(name: str, state: Mapping[str, Any] | str | Path, **arguments) -> tuple[Network, dict[str, Any]]:
    """The network `name` that computes what the weights' own network does, and its variables.

    Args:
      name: a static network of `list_models()`.
      state: a state dict of torchvision's or timm's network of that kind: name -> array or PyTorch tensor; or a file of
        one, see `read_state_dict`.
      **arguments: of `create_model`, before those that the weights decide (see `torch_arguments`).
    Returns:
      The network, and {'params': ..., 'batch_stats': ...} in float32.
    Raises:
      UserError: if the weights are of another network, or naming every tensor that is missing, unexpected or misshapen.
    """
    if isinstance(state, str | Path):
        state = read_state_dict(Path(state))
    model = _classifier(name, torch_arguments(name, state, **arguments))
    return model, load_torch_weights(model, state)


def _classifier(name: str, arguments: Mapping[str, Any]) -> Network:
    model = create_model(name, **arguments)
    if not isinstance(model, Network):
        raise UserError(f"there are no weights of torchvision or timm for {name}; import those of a classifier")
    return model


def load_torch_weights(model: Network, state: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a static network from a state dict, as `create_from_torch` gives them.

    Shapes alone do not say how a network computes: that its padding and BatchNorm's epsilon are those of the weights
    is up to the caller here. To train on as in PyTorch, `bn_unbiased=True` too, and for torchvision's MobileNetV3
    `bn_momentum=0.99`.
    """
    state = _weights(state)
    wanted = torch_tensors(model, find_scheme(model, state))
    missing = [tensor.name for tensor in wanted.values() if tensor.name not in state]
    unexpected = sorted(state.keys() - {tensor.name for tensor in wanted.values()})
    misshapen = [
        f"{tensor.name} has shape {tuple(state[tensor.name].shape)}, expected {tensor.shape}"
        for tensor in wanted.values()
        if tensor.name in state and tuple(state[tensor.name].shape) != tensor.shape
    ]
    if len(misshapen) > len(wanted) / 2:
        raise UserError(
            f"{len(misshapen)} of {len(wanted)} shapes misfit, such as: {misshapen[0]}: is the width right?"
        )
    problems = [("missing: ", missing), ("unexpected: ", unexpected), ("misshapen: ", misshapen)]
    if any(names for _, names in problems):
        listed = "; ".join(title + ", ".join(names) for title, names in problems if names)
        raise UserError(f"the weights do not fit the network: {listed}")
    flat = {path: tensor.convert(_to_numpy(state[tensor.name])) for path, tensor in wanted.items()}
    return flax.traverse_util.unflatten_dict(flat)


def torch_tensors(model: Network, scheme: str) -> dict[tuple[str, ...], TorchTensor]:
    """For every variable of the network, by its path, the tensor of PyTorch that it is made from.

    scheme: one of `SCHEMES`, 'torchvision' or 'timm'. Raises UserError if such a network is not known there.
    """
    if model.dynamic is not None:
        raise UserError("PyTorch's weights are of static networks; this one is dynamic")
    size = max(32, model.stride)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    leaves: Any = flax.traverse_util.flatten_dict(shapes)
    names = layer_names(model, scheme)
    return {path: _tensor(names["/".join(path[1:-1])], path[-1], leaf.shape) for path, leaf in leaves.items()}


def find_scheme(model: Network, state: Mapping[str, Any]) -> str:
    """Whose names a state dict has. Raises UserError if it lacks most of the names of every scheme."""
    wanted: dict[str, set[str]] = {}
    for scheme in SCHEMES:
        try:
            wanted[scheme] = {tensor.name for tensor in torch_tensors(model, scheme).values()}
        except UserError:
            if scheme == SCHEMES[-1] and not wanted:
                raise
    state = _weights(state)
    best = max(wanted, key=lambda scheme: len(wanted[scheme] & state.keys()))
    found = wanted[best] & state.keys()
    if len(found) < len(wanted[best]) / 2:
        others, missing = sorted(state.keys() - found), sorted(wanted[best] - found)
        examples = f", such as {', '.join(others[:3])}" if others else ""
        raise UserError(
            f"these are weights of another network: of the {len(wanted[best])} tensors of this one they have "
            f"{len(found)} (not {', '.join(missing[:3])}), and {len(others)} others{examples}"
        )
    return best


def torch_arguments(name: str, state: Mapping[str, Any], **arguments) -> dict[str, Any]:
    """Arguments of `create_model(name, ...)` with which the network computes what the weights' own does in evaluation.

    The weights decide num_classes, padding ('TORCH') and bn_epsilon (1e-5 for timm's), unless `arguments` do: timm's
    variants that begin with tf_ have padding='SAME' and bn_epsilon=1e-3. What a network is registered with as
    `torch_arguments` is decided too: ShuffleNetV2 gets torchvision's blocks.
    Raises UserError if the weights are of another kind of network.
    """
    arguments = {**model_info(name).torch_arguments, **arguments}
    model = _classifier(name, arguments)
    scheme = find_scheme(model, state)
    classifier = _weights(state).get(layer_names(model, scheme)["classifier"] + ".weight")
    decided = {"padding": "TORCH", "bn_epsilon": 1e-5 if scheme == "timm" else model.bn_epsilon}
    if classifier is not None:
        decided["num_classes"] = int(classifier.shape[0])
    return decided | arguments


def _weights(state):
    """Without a checkpoint's wrapping, what is no weight, and the prefix of networks trained on several devices."""
    state = {name.removeprefix("module."): array for name, array in _unwrap(state).items()}
    return {name: array for name, array in state.items() if not name.endswith(IGNORED)}


def _unwrap(content):
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content


def _to_numpy(array):
    if hasattr(array, "detach"):  # a tensor of PyTorch, of whatever type and device
        array = array.detach().float().cpu().numpy()
    return np.asarray(array, np.float32)


def _tensor(torch_name, leaf, shape):
    if leaf == "kernel" and len(shape) == 4:  # HWIO -> OIHW
        height, width, inputs, outputs = shape
        return TorchTensor(f"{torch_name}.weight", (outputs, inputs, height, width), lambda w: w.transpose(2, 3, 1, 0))
    if leaf == "kernel":
        # timm's MobileNetV3 writes a fully connected layer as a 1x1 convolution.
        ones = (1, 1) if torch_name == "conv_head" else ()
        return TorchTensor(f"{torch_name}.weight", (*shape[::-1], *ones), lambda w: w.reshape(w.shape[:2]).T)
    suffix = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}[leaf]
    return TorchTensor(f"{torch_name}.{suffix}", shape, lambda v: v)


def _read_safetensors(file):
    from safetensors.numpy import load_file

    return load_file(file)


def _read_npz(file):
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_pickle(file):
    import torch

    content = _unwrap(torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{file} holds no state dict, but {type(content).__name__}")
    return {name: _to_numpy(tensor) for name, tensor in content.items()}
