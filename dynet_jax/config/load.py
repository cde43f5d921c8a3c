"""Loading, overriding and checking configurations, before anything is compiled."""

import importlib.util
import inspect
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import ml_collections

from dynet_jax.config.keys import KEYS
from dynet_jax.config.named import config_of_network
from dynet_jax.config.recipe import RECIPES
from dynet_jax.config.relations import check_relations
from dynet_jax.config.schema import Key
from dynet_jax.errors import UserError, one_line, suggest
from dynet_jax.models.registry import PREDICTOR_OPTIONS, default_arguments, list_models
from dynet_jax.plugins import unknown

SECTIONS = tuple(key.name for key in KEYS.values() if key.type is dict)  # sections of arguments of a chosen function
WITHIN = tuple(f"{section}." for section in SECTIONS)
NAMES = tuple(section.removesuffix("_arguments") for section in SECTIONS)  # the keys that choose those functions
REQUIRED = ("model.name", "model.num_classes")  # required arguments of a network
# Arguments of networks that are set by other keys or by the devices.
DECIDED = {"dtype": "dtype", "bn_batch_size": "bn_batch_size", "bn_axis_name": "the devices"}


def load_config(argument: str, network: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration of a file, or of a network by its name.

    Args:
      argument: 'FILE.py' or 'FILE.py:VARIANT' is get_config() or get_config('VARIANT') of that file. 'NETWORK' or
        'NETWORK:VARIANT' is a registered network with its task's recipe (`dynet_jax.config.named`), and so is
        'configs/NETWORK.py' if no such file exists.
      network: passed to a file whose get_config has an argument of this name; the file's own choice if None.
    Raises UserError if there is no such file or network, or it has no such variant.

    >>> load_config("fix_mobile:digits").model.name
    'fix_mobile'
    """
    path, _, variant = argument.partition(":")
    file, variant = Path(path), [variant] if variant else []
    if not path:
        raise UserError("--config names no file; an example is configs/dy_mobile.py:digits")
    if file.is_file():
        return _execute(file, variant, network)
    is_name = path == file.stem or (file.parent.name, file.suffix) == ("configs", ".py")
    config = config_of_network(file.stem, *variant, network=network) if is_name else None
    if config is None and path == file.stem:
        raise unknown(f"network {path!r}, and there is no configuration file of this name", path, list_models())
    if config is None:
        beside = sorted(str(other) for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise UserError(f"there is no configuration file {path}" + (f"; {suggest(path, beside)}" if beside else ""))
    return config


def _execute(file: Path, variant: list[str], network: str | None) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(f"dynet_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file; a configuration is one, like configs/dy_mobile.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent.parent))  # makes `from configs import common` work from anywhere
    try:
        spec.loader.exec_module(module)
        takes_network = network is not None and "network" in inspect.signature(module.get_config).parameters
        config = module.get_config(*variant, **({"network": network} if takes_network else {}))
    except UserError:
        raise
    except Exception as error:  # a user's file may raise anything
        reason = one_line(error)
        raise UserError(f"{file} cannot be used as a configuration: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config() of {file} returns {type(config).__name__}, not an ml_collections.ConfigDict")
    return config


def override(config: ml_collections.ConfigDict, assignments: list[str], *, only: Set[str] | None = None) -> None:
    """Applies '--config.data.image_size=64' to the config, in place.

    The names of the network, the optimiser and the schedule are applied first, because the other keys depend on them.
    Another optimiser or schedule starts without the arguments of the previous one.

    Raises UserError for an unknown key, with similar ones, a value of another type, or a key that is not in `only`.
    """
    pairs = []
    for assignment in assignments:
        key, separator, text = assignment.removeprefix("--config.").partition("=")
        if not separator:
            raise UserError(f"write {assignment}=VALUE")
        pairs.append((key, text))
    for key, text in sorted(pairs, key=lambda pair: pair[0] not in ("model.name", *NAMES)):
        _assign(config, key, text, only)


def with_open_classes(assignments: list[str]) -> list[str]:
    """Returns the assignments, and leaves the number of classes to the dataset if only another dataset is named.

    >>> with_open_classes(["--config.data.name=folder:photos"])
    ['--config.data.name=folder:photos', '--config.model.num_classes=None']
    """
    keys = {assignment.removeprefix("--config.").partition("=")[0] for assignment in assignments}
    is_open = "data.name" in keys and "model.num_classes" not in keys
    return assignments + ["--config.model.num_classes=None"] * is_open


def _assign(config: ml_collections.ConfigDict, key: str, text: str, only: Set[str] | None) -> None:
    values = flatten(config)
    section, _, last = key.rpartition(".")
    if section == "model" and key not in values:
        values = _settable(values.get("model.name")) | values
        if last in PREDICTOR_OPTIONS and "model.temperature" not in values:
            raise UserError(f"{key} is for coefficient predictors, and {values['model.name']} is static")
    elif section in SECTIONS:
        _check_sections(config, section)
        values.setdefault(key, None)
    known = {**values, **dict.fromkeys(SECTIONS)}
    if key not in known and key in KEYS and KEYS[key].defaults and values.get("task") not in KEYS[key].defaults:
        raise UserError(
            f"{key} is for {' and '.join(KEYS[key].defaults)}, and this configuration for {values.get('task')}"
        )
    if key not in known:
        raise UserError(f"the configuration has no key {key!r}; {suggest(key, known)}")
    if only is not None and key not in only:
        can = ", ".join(sorted(only & known.keys()))
        raise UserError(f"{key} cannot be changed in an evaluation; keys that can are {can}")
    value = _key(key, known[key]).parse(text, known[key])
    place = config[section] if section else config
    with place.unlocked(), place.ignore_type():  # a file may have 3 where 2.5 is set now; the key has the right type
        if key in NAMES and value != config[key]:
            config[f"{key}_arguments"] = {}
        place[last] = value


def _settable(network: Any) -> dict[str, Any]:
    """Returns the keys of a network's arguments with their defaults. Raises UserError for an unknown network."""
    if not isinstance(network, str):
        raise UserError(f"model.name must be str, like 'dy_mobile', not {network!r}; set --config.model.name=NETWORK")
    arguments = default_arguments(network).items()
    return {f"model.{name}": value for name, value in arguments if name not in (*DECIDED, "annealed")}


def _key(name: str, default: Any) -> Key:
    """Returns a declared key, or a key for an argument of a user's network, with the type of its default."""
    kind = type(default) if type(default) in (int, float, bool, str, tuple) and not name.startswith(WITHIN) else None
    return KEYS.get(name) or Key(name, kind, {}, "", none="none", example=default)


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns {'data.image_size': 224, ...}."""
    flat = {}
    for key in config:
        value = _value(config, key)
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{key}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
    try:
        return config[key]
    except ml_collections.config_dict.RequiredValueError:  # an unset placeholder
        return None


def flatten_whole(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the flat configuration with all arguments of its network, including the defaults.

    Without them, an argument that is set to None would look like one that is not set. A network that is not registered
    here has no defaults.
    """
    flat = flatten(config)
    return {f"model.{key}": value for key, value in _arguments(flat).items() if key != "dtype"} | flat


def _arguments(flat: dict[str, Any]) -> dict[str, Any]:
    try:
        return default_arguments(flat["model.name"])
    except UserError:
        return {}


def _check_sections(config: ml_collections.ConfigDict, *sections: str) -> None:
    for section in sections:
        if not isinstance(value := config.get(section), ml_collections.ConfigDict):
            raise UserError(f"{section} must be a section of keys, not {value!r}; start from configs/common.py")


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a missing or unknown key, and for a value of another type or out of range.

    Optimisers, schedules and networks check their arguments when they are created.
    """
    _check_sections(config, "model", "data", *SECTIONS)
    flat = flatten(config)
    task = str(flat.get("task"))
    KEYS["task"].check(task)
    recipe = flatten(RECIPES[task](""))
    missing = [key for key in recipe if key not in flat and (not key.startswith("model.") or key in REQUIRED)]
    if missing:
        raise UserError(f"the configuration lacks {', '.join(missing)}; start from configs/common.py")
    arguments = _arguments(flat) if isinstance(flat["model.name"], str) else {}
    for name, value in flat.items():
        argument = name.removeprefix("model.")
        if argument != name and argument in DECIDED:
            raise UserError(f"the configuration has a key {name!r}, which is set by {DECIDED[argument]}")
        if name not in (*recipe, *SECTIONS) and not name.startswith(("model.", *WITHIN)):
            raise UserError(f"the configuration has an unknown key {name!r}; {suggest(name, recipe)}")
        _key(name, arguments.get(argument)).check(value)
    check_relations(config)
