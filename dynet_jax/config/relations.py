"""Rules that concern several keys of a configuration. Rules for single keys are in `keys.py`."""

from typing import Any

import ml_collections

from dynet_jax.config.keys import KEYS, C
from dynet_jax.errors import UserError

MAX_CLASSES = 254  # for segmentation: a label is a byte, and 255 is ignored


def check_relations(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that do not fit together."""
    if config.warmup_epochs >= config.epochs:
        raise UserError(
            f"warmup_epochs={config.warmup_epochs} must be less than epochs={config.epochs}"
            "; for a short run, set --config.warmup_epochs=0"
        )
    if config.temperature_from is None and not _is_default(config, "temperature_epochs"):
        raise UserError(
            f"temperature_epochs={config.temperature_epochs:g} has no effect without temperature_from; set "
            "temperature_from too, like 30"
        )
    if config.optimizer != "sgd" and not _is_default(config, "momentum"):
        raise UserError(
            f"momentum={config.momentum:g} is only for optimizer='sgd'; {config.optimizer!r} has its own arguments, "
            "like --config.optimizer_arguments.b1=0.9"
        )
    if config.optimizer == "sgd" and "momentum" in config.optimizer_arguments:
        raise UserError("optimizer_arguments.momentum is set by momentum")
    (_check_classification if config.task == C else _check_segmentation)(config)


def chosen_optimizer_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the optimiser's arguments besides its learning rate; the momentum of 'sgd' has its own key."""
    momentum = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return momentum | config.optimizer_arguments.to_dict()


def _check_classification(config: ml_collections.ConfigDict) -> None:
    data = config.data
    if data.resize_to < data.image_size:
        raise UserError(f"data.resize_to={data.resize_to} is less than data.image_size={data.image_size}")


def _check_segmentation(config: ml_collections.ConfigDict) -> None:
    if (config.model.num_classes or 0) > MAX_CLASSES:
        raise UserError(f"model.num_classes must be at most {MAX_CLASSES}, not {config.model.num_classes}")


def _is_default(config: ml_collections.ConfigDict, key: str) -> bool:
    return config[key] == KEYS[key].defaults[config.task]
