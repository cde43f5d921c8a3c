"""The registry of networks: `create_model`, `list_models`, the registering decorator, and the metadata of networks."""

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

PREDICTORS = "predictor"  # an expression that matches the parameters of all coefficient predictors of this package

# Fields of `dynet_jax.layers.blocks.Dynamic` that every dynamic network accepts; its builder sets the others.
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
    """The metadata of a network, the only source for commands, benchmarks and reports.

    Attributes:
      name: the name for `create_model`. builder: creates the module.
      task: 'classification' or 'segmentation'.
      title: the name in reports and figures.
      base: the static network to compare with; None for a network that is compared with none.
      twin: the static network with the same widths, and equal multiply-adds in its convolutions.
      family: shared by the networks that figures show together; the base unless given.
      torchvision, timm: the names of the same network there.
      torch_arguments: arguments with which this network has torchvision's layers.
      recipe: arguments that the recipe of its task passes instead of the defaults.
      small_images: keys of the configuration, with values, that differ from the paper's recipe on small images, so that
        its coefficients depend on the image there. The variants for CIFAR and the medium budget of plans set them.
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
    small_images: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "title", self.title or self.name)
        object.__setattr__(self, "family", self.family or self.base or self.name)


_MODELS: Registry[Registered] = Registry("model")


def register_model(builder: Callable[..., nn.Module] | None = None, **known) -> Callable:
    """Registers a network under the name of its builder, as a decorator; `known` are attributes of `Registered`.

    Raises ValueError if the name is taken.

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
    """Returns the metadata of a network. Raises UserError if its name, or the name of its base or twin, is unknown."""
    info = _MODELS.find(name)
    for kind, other in (("base", info.base), ("twin", info.twin)):
        if other is not None and other not in _MODELS:
            raise UserError(f"{name} is registered with {kind}={other!r}, not a network; {suggest(other, _MODELS)}")
    return info


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Returns the sorted names of the networks that match a shell-style pattern, of one task if it is given.

    >>> list_models("*_mobile", task="classification")
    ['dy_mobile', 'fix_mobile']
    """
    models = _MODELS.everything()
    return sorted(name for name in fnmatch.filter(models, pattern) if task in (None, models[name].task))


def create_model(name: str, **arguments) -> nn.Module:
    """Returns a network as a `flax.linen.Module` without parameters.

    Args:
      name: one of `list_models()`.
      **arguments: arguments of the network's builder (`num_classes`, `width`, `group_size`, ...) or options of its
        module (`small_input`, `output_stride`, `remat`, `padding`, `dtype`, `bn_batch_size`, `bn_axis_name`,
        `bn_momentum`, `bn_epsilon`, `bn_unbiased`, `zero_init_residual`); dynamic networks also have options of their
        predictors (`hidden_divisor`, `min_hidden_features`, `temperature`, `annealed`, `normalize_pooled`,
        `pooled_limit`).
    Raises:
      UserError (a ValueError): for an unknown name or argument, with similar ones, or for a value out of range.

    >>> create_model("dy_mobile", num_classes=10, width=0.5).num_classes
    10
    """
    builder = model_info(name).builder
    own = inspect.signature(builder).parameters
    if not isinstance(arguments.get("width", 1.0), numbers.Real):
        raise UserError(f"width must be a number, not {arguments['width']!r}")
    model = builder(**{key: value for key, value in arguments.items() if key in own})
    # What the builder does not set (dtype, BatchNorm's groups, ...) are fields of the module with a default.
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


def has_residuals(name: str) -> bool:
    """Returns whether a network of `create_model` has residual blocks, which stochastic depth can drop."""
    return getattr(getattr(_network(create_model(name)), "block", None), "has_residual", False)


def is_dynamic(model: nn.Module) -> bool:
    """Returns whether a network of `create_model` has dynamic convolutions; modules of other origin count as static."""
    return isinstance(getattr(_network(model), "dynamic", None), Dynamic)


def _network(model: nn.Module) -> nn.Module:
    """Returns the classifier, or the backbone below another head."""
    return getattr(model, "backbone", model)


def _predictor_options(model: nn.Module) -> dict[str, Any]:
    """Returns the predictor settings of a dynamic network, by the names of create_model's arguments."""
    dynamic = getattr(_network(model), "dynamic", None)
    return {option: getattr(dynamic, option) for option in PREDICTOR_OPTIONS} if isinstance(dynamic, Dynamic) else {}


def default_arguments(name: str) -> dict[str, Any]:
    """Returns the arguments that `create_model` uses for a network by default. Raises UserError for an unknown name."""
    model = create_model(name)
    own = {key: parameter.default for key, parameter in inspect.signature(model_info(name).builder).parameters.items()}
    return _defaults(getattr(model, "backbone", None)) | _defaults(model) | _predictor_options(model) | own


def _defaults(module: nn.Module | None) -> dict[str, Any]:
    """Returns the fields of a module that have a default."""
    fields = () if module is None else dataclasses.fields(module)
    fields = (field for field in fields if field.name not in ("parent", "name"))  # Flax's own
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
