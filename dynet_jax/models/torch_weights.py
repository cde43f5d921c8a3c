"""Weights of torchvision's and timm's networks for the static networks of this package."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.errors import UserError, named
from dynet_jax.models.network import Network
from dynet_jax.models.registry import create_model, model_info
from dynet_jax.models.torch_contents import Weights, find_weights
from dynet_jax.models.torch_files import Stored, read_checkpoint
from dynet_jax.models.torch_names import layer_names, schemes_of


class TorchTensor(NamedTuple):
    """The PyTorch tensor that a variable is made from: its name and shape, and the conversion of its value."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def create_from_torch(name: str, state: Mapping[str, Any] | str | Path, **arguments) -> tuple[Network, dict[str, Any]]:
    """Returns the network `name` that computes the same as the weights' own network, and its variables.

    Args:
      name: a static network of `list_models()`.
      state: a state dict of torchvision's or timm's network of that kind (name -> array or PyTorch tensor), or a file
        that contains one (see `read_checkpoint`), with any wrapping that `find_weights` recognises.
      **arguments: arguments of `create_model`; they override those that the weights determine (see `torch_arguments`).
    Returns:
      The network, and {'params': ..., 'batch_stats': ...} in float32.
    Raises:
      UserError: if the weights are of another network; it names all tensors that are missing, unexpected or misshapen.
    """
    if isinstance(state, str | Path):
        state = read_checkpoint(Path(state))
    model = _classifier(name, torch_arguments(name, state, **arguments))
    return model, load_torch_weights(model, state)


def _classifier(name: str, arguments: Mapping[str, Any]) -> Network:
    model = create_model(name, **arguments)
    if not isinstance(model, Network):
        raise UserError(f"there are no weights of torchvision or timm for {name}; import those of a classifier")
    return model


def load_torch_weights(model: Network, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a static network from a state dict, like `create_from_torch`.

    Shapes alone do not determine what a network computes: the caller has to ensure that its padding and BatchNorm's
    epsilon are those of the weights. To continue training as in PyTorch, also set `bn_unbiased=True`, and
    `bn_momentum=0.99` for torchvision's MobileNetV3.
    """
    state = choose_weights(model, state)[0].tensors
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
            f"{len(misshapen)} of {len(wanted)} shapes do not fit, such as: {misshapen[0]}: is the width right?"
        )
    problems = [("missing: ", missing), ("unexpected: ", unexpected), ("misshapen: ", misshapen)]
    if any(names for _, names in problems):
        listed = "; ".join(title + ", ".join(names) for title, names in problems if names)
        raise UserError(f"the weights do not fit the network: {listed}")
    flat = {path: tensor.convert(_to_numpy(tensor.name, state[tensor.name])) for path, tensor in wanted.items()}
    return flax.traverse_util.unflatten_dict(flat)


def choose_weights(model: Network, content: Any, choice: str | None = None) -> tuple[Weights, str]:
    """Returns the network's weights in a checkpoint's content, and a message about the choice: see `find_weights`."""
    return find_weights(content, [list(layer_names(model, s).values()) for s in schemes_of(model)], choice)


def weights_in(name: str, content: Any, choice: str | None = None, **arguments) -> tuple[dict[str, Any], str]:
    """Returns the tensors of the network `name` in a checkpoint's content, and a message: see `find_weights`."""
    model = _classifier(name, {**model_info(name).torch_arguments, **arguments})
    weights, said = choose_weights(model, content, choice)
    return weights.tensors, said


def torch_tensors(model: Network, scheme: str) -> dict[tuple[str, ...], TorchTensor]:
    """Returns the PyTorch tensor behind every variable of the network, by the variable's path.

    scheme: 'torchvision' or 'timm' (`SCHEMES`). Raises UserError if that library has no such network.
    """
    if model.dynamic is not None:
        raise UserError("PyTorch's weights are of static networks; this one is dynamic")
    size = max(32, model.stride)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    leaves: Any = flax.traverse_util.flatten_dict(shapes)
    names = layer_names(model, scheme)
    return {path: _tensor(names["/".join(path[1:-1])], path[-1], leaf.shape) for path, leaf in leaves.items()}


def find_scheme(model: Network, state: Mapping[str, Any]) -> str:
    """Returns the scheme of the names in `choose_weights`. Raises UserError if most are missing in every scheme."""
    wanted = {s: {tensor.name for tensor in torch_tensors(model, s).values()} for s in schemes_of(model)}
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
    """Returns arguments for `create_model` with which the network computes the same as the weights' own in evaluation.

    The weights determine num_classes, padding ('TORCH') and bn_epsilon (1e-5 for timm's), unless `arguments` set them.
    timm's variants whose names start with tf_ need padding='SAME', and then have bn_epsilon=1e-3. The `torch_arguments`
    of the network's registration are included: ShuffleNetV2 gets torchvision's blocks.
    Raises UserError if the weights are of another kind of network.
    """
    arguments = {**model_info(name).torch_arguments, **arguments}
    model = _classifier(name, arguments)
    state = choose_weights(model, state)[0].tensors
    scheme = find_scheme(model, state)
    classifier = state.get(layer_names(model, scheme)["classifier"] + ".weight")
    decided = {"padding": "TORCH", "bn_epsilon": 1e-5 if scheme == "timm" else model.bn_epsilon}
    if _is_tf_port(arguments.get("padding"), state):
        decided["bn_epsilon"] = 1e-3
    if classifier is not None:
        decided["num_classes"] = int(classifier.shape[0])
    return decided | arguments


def torch_preprocessing(model: Network, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of `config.data` in which the weights' preprocessing differs from ImageNet's usual one."""
    return dict.fromkeys(("mean", "std"), (127.5,) * 3) if _is_tf_port(model.padding, state) else {}


def is_timm_mobilenet(state: Mapping[str, Any]) -> bool:
    """Returns whether these are weights of timm's MobileNets, which include ports from TensorFlow."""
    return "conv_stem.weight" in state


def _is_tf_port(padding: Any, state: Mapping[str, Any]) -> bool:
    """Returns whether these are timm's tf_ variants, which differ from timm's own MobileNets only in their padding."""
    return padding == "SAME" and is_timm_mobilenet(state)


def _to_numpy(name: str, tensor: Any) -> np.ndarray:
    """Returns a tensor's values in float32. Raises UserError for values that no network can use."""
    try:
        # A PyTorch tensor may have any type and device.
        array = tensor.detach().float().cpu().numpy() if hasattr(tensor, "detach") else tensor
        array = array.array() if isinstance(array, Stored) else np.asarray(array)
    except (ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name} cannot be read ({named(error)})") from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} has values of type {array.dtype}: weights must be floats, not quantised")
    array = array.astype(np.float32)
    strange = array[~np.isfinite(array)]
    if strange.size:
        raise UserError(
            f"{name} holds {strange.size} values that are not finite, such as {strange[0]}: the training that made "
            "them has diverged, or their type is too narrow; take an earlier checkpoint"
        )
    if name.endswith("running_var") and array.size and array.min() < 0:
        raise UserError(f"{name} holds a variance of {array.min():g}, which cannot be negative; the file is damaged")
    return array


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
