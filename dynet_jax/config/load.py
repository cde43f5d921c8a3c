"""Configurations: what a run needs to know, checked before anything is compiled."""

import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import ml_collections

from dynet_jax.config.named import named
from dynet_jax.config.recipe import RECIPES
from dynet_jax.errors import UserError, one_line, suggest
from dynet_jax.models.registry import PREDICTOR_OPTIONS, default_arguments, list_models
from dynet_jax.plugins import unknown
from dynet_jax.tasks.task import make_task


def load_config(argument: str, network: str | None = None) -> ml_collections.ConfigDict:
    """The configuration of a file, or of a network by its name.

    Args:
      argument: 'FILE.py' or 'FILE.py:VARIANT' is get_config() or get_config('VARIANT') of that file. 'NETWORK' or
        'NETWORK:VARIANT' is a registered network by its task's recipe (`dynet_jax.config.named`), and so is
        'configs/NETWORK.py' where there is no such file.
      network: for a file whose get_config has an argument of this name; the file's own choice if None.
    Raises UserError if there is no such file or network, or it has no such variant.

    >>> load_config("fix_mobile:digits").model.name
    'fix_mobile'
    """
    path, _, variant = argument.partition(":")
    file, variant = Path(path), [variant] if variant else []
    if not path:
        raise UserError("--config names no file; one is configs/dy_mobile.py:digits")
    if file.is_file():
        return _execute(file, variant, network)
    is_name = path == file.stem or (file.parent.name, file.suffix) == ("configs", ".py")
    config = named(file.stem, *variant) if is_name else None
    if config is None and path == file.stem:
        raise unknown(f"network {path!r}, and there is no configuration file of this name", path, list_models())
    if config is None:
        beside = sorted(str(other) for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise UserError(f"there is no configuration file {path}" + (f"; {suggest(path, beside)}" if beside else ""))
    return config


def _execute(file: Path, variant: list[str], network: str | None) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(f"dynet_config_{file.stem}", file)
    if spec is None:
        raise UserError(f"{file} is not a Python file; a configuration is one, like configs/dy_mobile.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent.parent))  # so that `from configs import common` works from anywhere
    try:
        spec.loader.exec_module(module)
        takes_network = network is not None and "network" in inspect.signature(module.get_config).parameters
        config = module.get_config(*variant, **({"network": network} if takes_network else {}))
    except UserError:
        raise
    except Exception as error:  # whatever a user's file does wrong
        reason = one_line(error)
        raise UserError(f"{file} cannot be used as a configuration: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config() of {file} returns {type(config).__name__}, not an ml_collections.ConfigDict")
    return config


def override(config: ml_collections.ConfigDict, assignments: list[str], *, only: Set[str] | None = None) -> None:
    """Apply '--config.data.image_size=64' to the config, in place.

    A value is read as the type that the config has there. Raises UserError for an unknown key, with the close ones, a
    value of another type, or a key that is not among `only`.
    """
    for assignment in assignments:
        key, separator, text = assignment.removeprefix("--config.").partition("=")
        if not separator:
            raise UserError(f"write {assignment}=VALUE")
        known = _settable(config, of_network=key.startswith("model.") and key not in flatten(config))
        if key.removeprefix("model.") in PREDICTOR_OPTIONS and "model.temperature" not in known:
            raise UserError(f"{key} is of coefficient predictors, and {flatten(config)['model.name']} is static")
        if key not in known:
            raise UserError(f"the configuration has no key {key!r}; {suggest(key, known)}")
        if only is not None and key not in only:
            raise UserError(
                f"{key} cannot be changed in an evaluation; what can is {', '.join(sorted(only & known.keys()))}"
            )
        *parents, last = key.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        with section.unlocked():
            section[last] = _parse(key, text, known[key], type(known[key]))


def _settable(config: ml_collections.ConfigDict, *, of_network: bool) -> dict[str, Any]:
    """The keys of the configuration, with `of_network` those too that its network takes, with their present values."""
    flat = flatten(config)
    arguments = default_arguments(flat["model.name"]) if of_network else {}
    elsewhere = ("dtype", "bn_batch_size", "bn_axis_name", "annealed")  # what other keys, or the devices, decide
    return {f"model.{key}": value for key, value in arguments.items() if key not in elsewhere} | flat


def _parse(key: str, text: str, present: Any, kind: type) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"True": True, "False": False, "None": None}.get(text, text)
    if value is None and (present is None or key in OPTIONAL):
        return None
    if present is None:
        kind = OPTIONAL.get(key, type(value))
    if kind is str:
        return text
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and type(value) is list:
        value = tuple(value)
    if type(value) is not kind:
        example = json.dumps(present or PAIRS.get(key)) if kind is tuple else repr(present)
        like = "" if present is None else f", like {example}"
        raise UserError(f"{key} must be {'list' if kind is tuple else kind.__name__}{like}, not {text!r}")
    return value


PAIRS = {"learning_rate_factors": [["predictor", 10.0]], "weight_decays": [["predictor", 0.0]]}  # examples
# Keys that may be None, and what they are otherwise.
OPTIONAL = {
    "bn_batch_size": int,
    "data.data_dir": str,
    "clip_norm": float,
    "ema_decay": float,
    "init_from": str,
    "temperature_from": float,
    "model.hidden_divisor": int,
    "model.pooled_limit": float,
    "model.output_stride": int,
}


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{'data.image_size': 224, ...}"""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update({f"{key}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def flatten_whole(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """`flatten`, and the arguments that its network has where it is not told: what a configuration means.

    Without them an argument that is set to None would look like one that is not set. A network that is not registered
    here has none.
    """
    flat = flatten(config)
    try:
        arguments = default_arguments(flat["model.name"])
    except UserError:
        arguments = {}
    return {f"model.{key}": value for key, value in arguments.items() if key != "dtype"} | flat


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a value out of its range."""
    flat = flatten(config)
    _check_types(flat)
    positive = ("batch_size", "accumulation_steps", "epochs", "data.image_size", "data.resize_to", "log_every_steps")
    positive += ("checkpoint_every_steps", "keep_checkpoints", "eval_every_epochs", "data.threads")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} must be finite, not {value}")
    for key in filter(flat.__contains__, positive):
        if not flat[key] > 0:
            raise UserError(f"{key} must be positive, not {flat[key]}")
    for key in (
        "learning_rate",
        "weight_decay",
        "warmup_epochs",
        "temperature_epochs",
        "seed",
        "data.workers",
        "data.max_corrupt",
    ):
        if not flat[key] >= 0:
            raise UserError(f"{key} must not be negative: {flat[key]}")
    for key in filter(flat.__contains__, ("label_smoothing", "momentum")):
        if not 0 <= flat[key] < 1:
            raise UserError(f"{key} must be in [0, 1), not {flat[key]}")
    if config.seed >= 2**32:
        raise UserError(f"seed must be less than 2^32, not {config.seed}")
    for key in ("data.mean", "data.std"):
        if len(flat[key]) != 3 or not all(type(value) in (int, float) and math.isfinite(value) for value in flat[key]):
            raise UserError(f"{key} must be three numbers, of red, green and blue, not {flat[key]}")
    if min(config.data.std) <= 0:
        raise UserError(f"data.std must be positive, not {config.data.std}")
    if config.bn_batch_size is not None and config.bn_batch_size < 1:
        raise UserError(f"bn_batch_size must be positive, or None for the whole batch, not {config.bn_batch_size}")
    if config.clip_norm is not None and config.clip_norm <= 0:
        raise UserError(f"clip_norm must be positive, or None for no clipping, not {config.clip_norm}")
    if config.ema_decay is not None and not 0 < config.ema_decay < 1:
        raise UserError(f"ema_decay must be in (0, 1), like 0.9999, or None for no averages, not {config.ema_decay}")
    for key in ("learning_rate_factors", "weight_decays"):
        _check_by_pattern(key, config[key])
    if config.temperature_from is not None and not config.temperature_from > 0:
        raise UserError(f"temperature_from must be positive (30 in DY-CNN), or None, not {config.temperature_from}")
    if config.warmup_epochs >= config.epochs:
        raise UserError(f"warmup_epochs={config.warmup_epochs} must be less than epochs={config.epochs}")
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype must be 'float32' or 'bfloat16', not {config.dtype!r}")
    make_task(config).check()


def _check_by_pattern(key: str, pairs: Any) -> None:
    """Raises UserError unless the value is pairs of a regular expression and a number from 0 up."""
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            example = json.dumps(PAIRS[key])
            raise UserError(f"{key} must be pairs of a pattern and a number, like {example}, not {pair!r}")
        pattern, number = pair
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{key} has {pattern!r}, which is no regular expression: {error}") from error
        if type(number) not in (int, float) or not (math.isfinite(number) and number >= 0):
            raise UserError(f"{key} must have numbers from 0 up, not {number!r} for {pattern!r}")


def _check_types(flat: dict[str, Any]) -> None:
    """Raises UserError unless the keys and their types are those of the recipe; a network's arguments are its own."""
    task = flat.get("task")
    if task not in RECIPES:
        raise UserError(f"task must be one of {', '.join(RECIPES)}, not {task!r}")
    recipe = flatten(RECIPES[task](""))
    optional = [key for key in recipe if key.startswith("model.") and key not in ("model.name", "model.num_classes")]
    missing = [key for key in recipe if key not in flat and key not in optional]
    if missing:
        raise UserError(f"the configuration lacks {', '.join(missing)}; begin from configs/common.py")
    for key, value in flat.items():
        if key not in recipe and not key.startswith("model."):
            raise UserError(f"the configuration has a key {key!r} that means nothing; {suggest(key, recipe)}")
        if key not in recipe or (value is None and key in OPTIONAL):
            continue
        kind = OPTIONAL.get(key, type(recipe[key]))
        allowed = {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))
        if type(value) not in allowed:
            name = "list" if kind is tuple else kind.__name__
            raise UserError(f"{key} must be {name}, like {recipe[key]!r}, not {value!r}")
