"""What must be the same where a run begins with the weights of another: shapes, and what shapes do not show."""

import json
from collections.abc import Sequence
from typing import Any

import ml_collections

from dynet_jax.config.load import flatten_whole
from dynet_jax.errors import UserError
from dynet_jax.train.setup import Run
from dynet_jax.trained import TrainedNetwork

COMPUTED_ALIKE = ("padding", "bn_epsilon")  # weights of one do not fit the other, though the shapes do
# Arguments of networks that change no shape, or may differ.
FREE = {
    f"model.{name}"
    for name in (
        *(
            "name",
            "num_classes",
            "auxiliary",
            "output_stride",
            "small_input",
            "temperature",
            "annealed",
            "pooled_limit",
        ),
        *("remat", "zero_init_residual", "bn_momentum", "bn_unbiased", "bn_batch_size", "bn_axis_name"),
        *COMPUTED_ALIKE,
    )
}
CLOSE = 0.02  # standard deviations by which means may differ, and the share by which these may: numbers are rounded


def check_alike(other: TrainedNetwork, run: Run, strange: Sequence[str]) -> None:
    """Raises UserError, with all that has to be set, if the other's weights do not fit.

    strange: names of arrays that the two have not in common.
    """
    needed = _computed(other, run) | _pixels(other.config.data, run.config.data)
    if strange:
        needed |= _shaped(other.config, run.config)
    options = " ".join(f"--config.{key}={_written(value)}" for key, value in needed.items())
    if strange:
        more = f", and {len(strange) - 5} more" if len(strange) > 5 else ""
        what = "a classifier on the same backbone, or " if run.config.task == "segmentation" else ""
        raise UserError(
            f"{other.workdir} holds another network than {run.config.model.name}: {', '.join(strange[:5])}{more} "
            f"differ; --init_from takes {what}the same network, which may have other classes"
            + (f"; its own settings are {options}" if options else "")
        )
    if needed:
        had = ", ".join(f"{key}={value!r}" for key, value in needed.items())
        raise UserError(f"{other.workdir} was trained with {had}; its weights need {options}")


def _computed(other: TrainedNetwork, run: Run) -> dict[str, Any]:
    """As the modules have it, whether the configuration says so or the network itself."""
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
    """As an option has it."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, tuple | list) else str(value)
