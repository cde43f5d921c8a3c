"""Networks by name: `create_model`, `list_models`, and the decorator that registers them."""

import dataclasses
import fnmatch
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from dynet_jax.errors import UserError, suggest
from dynet_jax.layers.blocks import Dynamic

# Fields of `dynet_jax.layers.blocks.Dynamic` that every dynamic network takes; the others are its builder's affair.
PREDICTOR_OPTIONS = (
    "hidden_divisor",
    "min_hidden_features",
    "temperature",
    "annealed",
    "normalize_pooled",
    "pooled_limit",
)

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}
_TASKS: dict[str, str] = {}


def register_model(builder: Callable[..., nn.Module], task: str = "classification") -> Callable[..., nn.Module]:
    """Decorator: the function's name becomes the model's name. `task` is 'classification' or 'segmentation'."""
    if builder.__name__ in _BUILDERS:
        raise ValueError(f"a model named {builder.__name__!r} is registered already")
    _BUILDERS[builder.__name__], _TASKS[builder.__name__] = builder, task
    return builder


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names of the registered networks that match a shell-style pattern, sorted; of one task, if it is given.

    >>> list_models("*_mobile", task="classification")
    ['dy_mobile', 'fix_mobile']
    """
    return sorted(name for name in fnmatch.filter(_BUILDERS, pattern) if task in (None, task_of_model(name)))


def task_of_model(name: str) -> str:
    """What a network is for, 'classification' or 'segmentation'. Raises UserError for an unknown name."""
    _builder(name)
    return _TASKS.get(name, "classification")


def create_model(name: str, **arguments) -> nn.Module:
    """Build a network, as a `flax.linen.Module` without parameters.

    Args:
      name: one of `list_models()`.
      **arguments: of the network's builder (`num_classes`, `width`, `group_size`, ...) or options of its module
        (`small_input`, `output_stride`, `remat`, `padding`, `dtype`, `bn_batch_size`, `bn_axis_name`, `bn_momentum`,
        `bn_epsilon`, `bn_unbiased`, `zero_init_residual`); of dynamic networks also how coefficients are predicted
        (`hidden_divisor`, `min_hidden_features`, `temperature`, `annealed`, `normalize_pooled`, `pooled_limit`).
    Raises:
      UserError (a ValueError): for an unknown name or argument, with the close matches, or a value out of range.

    >>> create_model("dy_mobile", num_classes=10, width=0.5).num_classes
    10
    """
    builder = _builder(name)
    own = inspect.signature(builder).parameters
    if not isinstance(arguments.get("width", 1.0), numbers.Real):
        raise UserError(f"width must be a number, not {arguments['width']!r}")
    model = builder(**{key: value for key, value in arguments.items() if key in own})
    # What the builder does not decide (dtype, BatchNorm's groups, ...) are fields of the module with a default.
    backbone = getattr(model, "backbone", None)
    options = sorted({*_defaults(model), *_defaults(backbone), *_predictor_options(model)} - {*own})
    for argument in arguments:
        if argument not in own and argument not in options:
            raise UserError(f"{name} has no argument {argument!r}; {suggest(argument, [*own, *options])}")
    chosen = {key: value for key, value in arguments.items() if key in options}
    predictor = {key: chosen.pop(key) for key in _predictor_options(model) if key in chosen}
    if predictor:
        chosen["dynamic"] = dataclasses.replace(_network(model).dynamic, **predictor)
    return model.clone(**chosen) if backbone is None else model.clone(backbone=backbone.clone(**chosen))


def is_dynamic(model: nn.Module) -> bool:
    """Whether a network of `create_model` has dynamic convolutions; a module that is none of ours counts as static."""
    return isinstance(getattr(_network(model), "dynamic", None), Dynamic)


def _network(model: nn.Module) -> nn.Module:
    """The classifier, or the backbone below other heads."""
    return getattr(model, "backbone", model)


def _predictor_options(model: nn.Module) -> dict[str, Any]:
    """How the coefficients of a dynamic network are predicted, by the names of create_model's arguments."""
    dynamic = getattr(_network(model), "dynamic", None)
    return {option: getattr(dynamic, option) for option in PREDICTOR_OPTIONS} if isinstance(dynamic, Dynamic) else {}


def default_arguments(name: str) -> dict[str, Any]:
    """What the arguments of a network are where `create_model` is not told. Raises UserError for an unknown name."""
    model = create_model(name)
    own = {key: parameter.default for key, parameter in inspect.signature(_builder(name)).parameters.items()}
    return _defaults(getattr(model, "backbone", None)) | _defaults(model) | _predictor_options(model) | own


def _defaults(module: nn.Module | None) -> dict[str, Any]:
    """The fields of a module that have a default."""
    fields = () if module is None else dataclasses.fields(module)
    fields = (field for field in fields if field.name not in ("parent", "name"))  # Flax's own
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _builder(name):
    if name not in _BUILDERS:
        raise UserError(f"unknown model {name!r}; {suggest(name, list_models())}")
    return _BUILDERS[name]
