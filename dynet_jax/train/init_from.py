"""Fine-tuning: a new run that starts from another run's parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynet_jax.layers.predictor import TEMPERATURE
from dynet_jax.train.alike import check_alike
from dynet_jax.train.kept_outputs import match_classes
from dynet_jax.train.setup import Run
from dynet_jax.train.state import TrainState
from dynet_jax.trained import open_trained
from dynet_jax.workdir.integrity import named_leaves

CLASSIFIER = "params/classifier/"
BACKBONE = "backbone/"
TOP = ("classifier/", "hidden/", "head/", "head_norm/")  # the parts of a classifier that features_only omits


def initialise_from(workdir: Path, run: Run, class_names: Sequence[str]) -> tuple[TrainState, str]:
    """Returns a state at step 0 with the parameters and statistics of another work directory's newest checkpoint.

    A classifier keeps its rows for the classes with the same name (`kept_outputs.py`); the others are initialised. A
    network for segmentation takes its backbone from a classifier, and its heads are initialised. Moving averages are
    used if the other run has them.
    The second result is a message about what is new, in the network and in its pixels.

    Args:
      class_names: those of the run's data.
    Raises UserError if anything else differs, or if there is no valid checkpoint.
    """
    other = open_trained(workdir)
    fresh = run.fresh_state()
    found, wanted = named_leaves(other.variables), named_leaves(fresh.variables)
    found = {name: leaf for name, leaf in found.items() if not _is_temperature(name)}  # the schedule is the run's own
    into_backbone = run.config.task == "segmentation" and other.config.task == "classification"
    if into_backbone:
        found = dict(filter(None, map(_of_backbone, found.items())))
    own = set(filter(_is_temperature, wanted))
    new = [n for n, leaf in wanted.items() if n not in own and (n not in found or found[n].shape != leaf.shape)]
    extra = [name for name in found if name not in wanted]
    strange = [name for name in (*new, *extra) if not _may_be_new(name, into_backbone)]
    pixels = check_alike(other, run, strange)
    outputs = run.config.model.num_classes
    taken = match_classes(other.class_names, other.config.model.num_classes, class_names, outputs)
    if into_backbone or taken.all_new:
        new = [name for name in wanted if _may_be_new(name, into_backbone)]
    elif not taken.all_kept or new:
        heads = [name for name in wanted if name in found and _may_be_new(name, into_backbone)]
        found |= {name: _with_rows(wanted[name], found[name], taken.rows) for name in heads}
        new = [name for name in new if name not in found]  # an auxiliary head that the other network does not have
    leaves = [
        leaf if name in new or name in own else jax.device_put(found[name], leaf.sharding)
        for name, leaf in wanted.items()
    ]
    variables = jax.tree.unflatten(jax.tree.structure(fresh.variables), leaves)
    state = fresh.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    modules = ", ".join(sorted({name.split("/")[1] for name in new}))
    said = (f" with new {modules}" if new else "") + (f" ({taken.said})" if taken.said and not into_backbone else "")
    ema = jax.tree.map(lambda leaf: leaf.copy(), variables) if fresh.ema else fresh.ema
    return state.replace(ema=ema), said + pixels


def _with_rows(fresh: jax.Array, before: Any, rows: Sequence[int | None]) -> np.ndarray:
    """Returns a classifier's array, whose last axis is its outputs, with the rows that are kept."""
    leaf = np.array(fresh)
    for output, row in enumerate(rows):
        if row is not None:
            leaf[..., output] = before[..., row]
    return leaf


def _of_backbone(item: tuple[str, jax.Array]) -> tuple[str, jax.Array] | None:
    """Returns a classifier's array under its name in a network that has this classifier as its backbone."""
    (collection, _, name), leaf = item[0].partition("/"), item[1]
    return None if name.startswith(TOP) else (f"{collection}/{BACKBONE}{name}", leaf)


def _is_temperature(name: str) -> bool:
    return name.startswith("batch_stats/") and name.endswith(f"/{TEMPERATURE}")


def _may_be_new(name: str, into_backbone: bool) -> bool:
    return (
        f"/{BACKBONE}" not in name if into_backbone else name.startswith((CLASSIFIER, "params/auxiliary_classifier/"))
    )
