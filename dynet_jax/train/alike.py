"""Checks of a run that starts from another run's weights: shapes, and settings that shapes do not show."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from dynet_jax.config.load import flatten_whole
from dynet_jax.data.contents import listed
from dynet_jax.errors import UserError
from dynet_jax.train.setup import Run
from dynet_jax.trained import TrainedNetwork

COMPUTED_ALIKE = ("padding", "bn_epsilon")  # these must be equal for weights to fit, although shapes do not show it
# Arguments of networks that change no shape, or may differ.
FREE = {
    *("model.name", "model.num_classes", "model.auxiliary", "model.output_stride", "model.remat"),
    *("model.temperature", "model.annealed", "model.pooled_limit", "model.zero_init_residual"),
    *("model.bn_momentum", "model.bn_unbiased", "model.bn_batch_size", "model.bn_axis_name"),
    *(f"model.{name}" for name in COMPUTED_ALIKE),
}
OTHER_UNIT = 10  # a ratio of stds beyond this means that one is of pixels from 0 to 1 and the other from 0 to 255
CLOSE = 0.02  # allowed difference of means, in standard deviations, and of stds, as a share: numbers are rounded


def check_alike(other: TrainedNetwork, run: Run, strange: Sequence[str]) -> str:
    """Returns a message about the mean and std of pixels that the weights were trained with; '' if they are equal.

    strange: names of arrays that only one of the two networks has, or whose shapes differ.
    Raises UserError, with all necessary settings, if the other's weights do not fit.
    """
    pixels = _pixels(other.config.data, run.config.data)
    ratio = other.config.data.std[0] / run.config.data.std[0]
    needed = _computed(other, run) | ({} if 1 / OTHER_UNIT < ratio < OTHER_UNIT else pixels)
    if strange:
        raise UserError(_strange(other, run, strange, needed))
    if needed:
        raise UserError(f"{other.workdir} was trained with {_had(needed)}; its weights need {_options(needed)}")
    now = {key: tuple(run.config.data[key.removeprefix("data.")]) for key in pixels}
    return f" (it was trained with {_had(pixels)}; this run has {_had(now)})" if pixels else ""


def _strange(other: TrainedNetwork, run: Run, strange: Sequence[str], needed: Mapping[str, Any]) -> str:
    segments = run.config.task == "segmentation"
    theirs, ours = other.config.model.name, run.config.model.name
    same = theirs in (ours, ours.removeprefix("fcn_") if segments else ours)
    own = _options({**needed, **_shaped(other.config, run.config)}) if same else ""
    network = f"another network than {ours}" if same else f"{theirs}, not {ours}"
    what = "a classifier on the same backbone, or " if segments else ""
    return (
        f"{other.workdir} holds {network}: {listed(strange)} differ; --init_from takes {what}the same network, which "
        "may have other classes" + (f"; its own settings are {own}" if own else "")
    )


def _options(settings: Mapping[str, Any]) -> str:
    return " ".join(f"--config.{key}={_written(value)}" for key, value in settings.items())


def _had(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def _computed(other: TrainedNetwork, run: Run) -> dict[str, Any]:
    """Returns the settings in which the modules differ, whether set by the configuration or by the network."""
    theirs, ours = (getattr(model, "backbone", model) for model in (other.model, run.model))
    both = [name for name in COMPUTED_ALIKE if hasattr(theirs, name) and hasattr(ours, name)]
    return {f"model.{n}": getattr(theirs, n) for n in both if getattr(theirs, n) != getattr(ours, n)}


def _pixels(other: ml_collections.ConfigDict, own: ml_collections.ConfigDict) -> dict[str, Any]:
    close = all(abs(a - b) <= CLOSE * s for a, b, s in zip(other.mean, own.mean, other.std))
    close = close and all(abs(a - b) <= CLOSE * a for a, b in zip(other.std, own.std))
    return {} if close else {"data.mean": tuple(other.mean), "data.std": tuple(other.std)}


def _shaped(other: ml_collections.ConfigDict, own: ml_collections.ConfigDict) -> dict[str, Any]:
    theirs, ours = flatten_whole(other), flatten_whole(own)
    both = [key for key in theirs if key.startswith("model.") and key in ours and key not in FREE]
    return {key: theirs[key] for key in both if _written(theirs[key]) != _written(ours[key])}


def _written(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, tuple | list) else str(value)
