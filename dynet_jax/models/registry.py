"""Networks by name: `create_model`, `list_models`, the decorator that registers them, and what is known of them."""

import dataclasses
import fnmatch
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from dynet_jax.errors import UserError, suggest
from dynet_jax.layers.blocks import Dynamic
from dynet_jax.registry import Registry

# Fields of `dynet_jax.layers.blocks.Dynamic` that every dynamic network takes; the others are its builder's affair.
PREDICTOR_OPTIONS = (
    "hidden_divisor",
    "min_hidden_features",
    "temperature",
    "annealed",
    "normalize_pooled",
    "pooled_limit",
)


@dataclasses.dataclass(frozen=True)
class Registered:
    """What is known of a network beside its architecture; commands, benchmarks and reports ask for nothing else.

    Attributes:
      name: of `create_model`. builder: makes the module.
      task: 'classification' or 'segmentation'.
      title: the name for people.
      base: the static network that this one is compared with; None for a network that is compared with none.
      twin: the static network of the same widths, of equal multiply-adds in its convolutions.
      family: what networks of one have in common that figures show together; the base unless given.
      torchvision, timm: the names of the same network there.
      torch_arguments: with which this network has torchvision's layers.
      recipe: arguments that the recipe of its task gives it instead of the defaults.
      slow_predictors: whether, by the paper's recipe, its coefficients change more slowly between images than its
        kernels change; the variants for CIFAR let such predictors learn ten times as fast, without a hidden layer.
    """

    name: str
    builder: Callable[..., nn.Module]
    task: str = "classification"
    title: str = ""
    base: str | None = None
    twin: str | None = None
    family: str = ""
    torchvision: str | None = None
    timm: str | None = None
    torch_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slow_predictors: bool = False

    def __post_init__(self):
        object.__setattr__(self, "title", self.title or self.name)
        object.__setattr__(self, "family", self.family or self.base or self.name)


_MODELS: Registry[Registered] = Registry("model")


def register_model(builder: Callable[..., nn.Module] | None = None, **known) -> Callable:
    """Decorator: the function's name becomes the network's name; `known` are attributes of `Registered`.

    Raises ValueError for a name that is taken.

    >>> from dynet_jax.models.mobilenet import dy_mobile
    >>> @register_model(title="Dy-tiny", base="mobilenet_v2")
    ... def dy_tiny(num_classes: int = 1000, width: float = 0.1):
    ...     return dy_mobile(num_classes, width, group_size=2)
    >>> create_model("dy_tiny", num_classes=10).num_classes, model_info("dy_tiny").title
    (10, 'Dy-tiny')
    >>> del _MODELS["dy_tiny"]
    """
    if builder is None:
        return lambda builder: register_model(builder, **known)
    name = builder.__name__
    _MODELS.add(name, Registered(name, builder, **known))
    return builder


def model_info(name: str) -> Registered:
    """What is known of a network. Raises UserError for an unknown name, or one whose base or twin is unknown."""
    info = _MODELS.find(name)
    for kind, other in (("base", info.base), ("twin", info.twin)):
        if other is not None and other not in _MODELS:
            raise UserError(f"{name} is registered with {kind}={other!r}, which is none; {suggest(other, _MODELS)}")
    return info


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names of the registered networks that match a shell-style pattern, sorted; of one task, if it is given.

    >>> list_models("*_mobile", task="classification")
    ['dy_mobile', 'fix_mobile']
    """
    models = _MODELS.everything()
    return sorted(name for name in fnmatch.filter(models, pattern) if task in (None, models[name].task))


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
    builder = model_info(name).builder
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
    own = {key: parameter.default for key, parameter in inspect.signature(model_info(name).builder).parameters.items()}
    return _defaults(getattr(model, "backbone", None)) | _defaults(model) | _predictor_options(model) | own


def _defaults(module: nn.Module | None) -> dict[str, Any]:
    """The fields of a module that have a default."""
    fields = () if module is None else dataclasses.fields(module)
    fields = (field for field in fields if field.name not in ("parent", "name"))  # Flax's own
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
