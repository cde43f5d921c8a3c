"""The feature maps of layers by name: a network's stages, and every module with a result [batch, height, width, C]."""

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from dynet_jax.errors import UserError, suggest
from dynet_jax.layers.call_options import call_options
from dynet_jax.ops.maps import Operand

CALL = "__call__"


def list_layers(model: nn.Module, variables: dict, image_shape: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    """Returns the layers that have feature maps, {name: [height, width, channels]}, without computing anything.

    First come the results of `features_only` ('stem', 'stage1', ...), also of a model's `backbone`. Then come modules
    by their paths, like 'stage6_block1/project', in the order of computation. A stage is the result of its last block.
    A module that is called more than once is left out.

    image_shape: [height, width, 3] of one image.

    >>> import jax, jax.numpy as jnp
    >>> from dynet_jax import create_model
    >>> model = create_model("dy_mobile", width=0.1, small_input=True)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    >>> layers = list_layers(model, variables, (16, 16, 3))
    >>> layers["stage6"], layers["stage6_block1/project"]
    ((2, 2, 18), (2, 2, 18))
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    maps = jax.eval_shape(lambda v, x: _feature_maps(model, v, x, None), variables, images)
    return {name: value.shape[1:] for name, value in maps.items()}


def default_layer(model: nn.Module, layers: Collection[str]) -> str:
    """Returns the second-last stage, as in Fig. 6. Raises UserError for a network without stages.

    layers: the names of `list_layers`.
    """
    stages = [name for name in layers if name.startswith("stage") and name[5:].isdecimal()]
    if _features_method(model) is None or not stages:
        raise UserError(f"the network has no stages: name a layer; {suggest('', layers)}")
    return [name for name in layers if name == "stem" or name in stages][-2]


def check_layers(wanted: Sequence[str], layers: Collection[str]) -> None:
    """Raises UserError for a name that is not in `list_layers`; the message lists some, since there may be hundreds."""
    for name in wanted:
        if name not in layers:
            close = difflib.get_close_matches(name, layers, n=1, cutoff=0.5)
            told = layers if close else [layer for layer in layers if "/" not in layer and "_" not in layer] or layers
            more = "" if close else ", or the path of a module, as --layer=list shows them"
            raise UserError(f"the network has no layer {name!r} with feature maps; {suggest(name, told)}{more}")


def make_feature_maps(model: nn.Module, layers: Sequence[str]) -> Callable[[dict, Operand], dict[str, jax.Array]]:
    """Returns a compiled function (variables, normalised images) -> {layer: [batch, height, width, channels] float32}.

    layers: names from `list_layers`. Only what these layers need is computed.
    """

    @jax.jit
    def feature_maps(variables, images):
        maps = _feature_maps(model, variables, images, layers)
        return {name: maps[name].astype(jnp.float32) for name in layers}

    return feature_maps


def _feature_maps(model: nn.Module, variables: dict, images: jax.Array, layers: Sequence[str] | None):
    """Returns at least the maps of these layers, or all for None, in an ordered dict, because JAX sorts plain ones."""
    maps: OrderedDict[str, jax.Array] = OrderedDict()
    method = _features_method(model)
    if method is not None and (layers is None or any("/" not in name for name in layers)):
        found: Any = model.apply(variables, images, method=method)
        maps.update(found)

    def wanted(module, method_name):
        return method_name == CALL and (layers is None or "/".join(module.path) in layers)

    if layers is None or not all(name in maps for name in layers):
        options: dict[str, Any] = {"capture_intermediates": wanted, "mutable": ["intermediates"], **call_options(model)}
        _, state = model.apply(variables, images, **options)
        calls: Any = flatten_dict(state.get("intermediates", {}))
        for (*path, name), outputs in calls.items():
            first, *more = outputs if name == CALL else [None]
            if path and not more and isinstance(first, jax.Array) and first.ndim == 4:
                maps.setdefault("/".join(path), first)
    return maps


def _features_method(model: nn.Module) -> Callable | None:
    """Returns a method (bound model, images) -> {'stem': ..., 'stage1': ..., ...} of the model or its backbone."""
    if _has_features(model):
        return lambda bound, images: bound(images, train=False, features_only=True)
    if _has_features(getattr(model, "backbone", None)):
        return lambda bound, images: bound.backbone(images, train=False, features_only=True)
    return None


def _has_features(model: object) -> bool:
    return isinstance(model, nn.Module) and "features_only" in inspect.signature(type(model).__call__).parameters
