"""Fine-tuning: a new run that begins with another run's parameters."""

from pathlib import Path

import jax
import ml_collections

from dynet_jax.errors import UserError
from dynet_jax.layers.predictor import TEMPERATURE
from dynet_jax.train.setup import Run
from dynet_jax.train.state import TrainState
from dynet_jax.trained import open_trained
from dynet_jax.workdir.integrity import named_leaves

CLASSIFIER = "params/classifier/"
BACKBONE = "backbone/"
TOP = ("classifier/", "hidden/", "head/", "head_norm/")  # of a classifier: what features_only leaves out
ALIKE = {"padding": "SAME", "bn_epsilon": 1e-5}  # weights of one do not fit the other, though the shapes do


def initialise_from(workdir: Path, run: Run) -> tuple[TrainState, list[str]]:
    """The run's state at step 0 with the parameters and statistics of another work directory's newest checkpoint.

    A classifier for another number of classes begins anew. A network for segmentation takes its backbone from a
    classifier, and its heads begin anew. Moving averages are taken where the other run has some.
    Returns the state and the names of the arrays that are new.

    Raises UserError if anything else differs, or there is no whole checkpoint.
    """
    other = open_trained(workdir)
    fresh = run.fresh_state()
    found, wanted = named_leaves(other.variables), named_leaves(fresh.variables)
    found = {name: leaf for name, leaf in found.items() if not _is_temperature(name)}  # the schedule is the run's own
    into_backbone = run.config.task == "segmentation" and other.config.task == "classification"
    if into_backbone:
        found = dict(filter(None, map(_of_backbone, found.items())))
    _check_alike(workdir, other.config.model, run.config.model)
    own = set(filter(_is_temperature, wanted))
    new = [n for n, leaf in wanted.items() if n not in own and (n not in found or found[n].shape != leaf.shape)]
    extra = [name for name in found if name not in wanted]
    strange = [name for name in (*new, *extra) if not _may_be_new(name, into_backbone)]
    if strange:
        more = f", and {len(strange) - 5} more" if len(strange) > 5 else ""
        what = "a classifier on the same backbone, or " if run.config.task == "segmentation" else ""
        raise UserError(
            f"{workdir} holds another network than {run.config.model.name}: {', '.join(strange[:5])}{more} differ; "
            f"--init_from takes {what}the same network, which may have another number of classes"
        )
    if new:
        new = [name for name in wanted if _may_be_new(name, into_backbone)]
    leaves = [
        leaf if name in new or name in own else jax.device_put(found[name], leaf.sharding)
        for name, leaf in wanted.items()
    ]
    variables = jax.tree.unflatten(jax.tree.structure(fresh.variables), leaves)
    state = fresh.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    return (state.replace(ema=jax.tree.map(lambda leaf: leaf.copy(), variables)) if fresh.ema else state), new


def _of_backbone(item: tuple[str, jax.Array]) -> tuple[str, jax.Array] | None:
    """An array of a classifier under its name in a network that has the classifier as its backbone."""
    (collection, _, name), leaf = item[0].partition("/"), item[1]
    return None if name.startswith(TOP) else (f"{collection}/{BACKBONE}{name}", leaf)


def _is_temperature(name: str) -> bool:
    return name.startswith("batch_stats/") and name.endswith(f"/{TEMPERATURE}")


def _may_be_new(name: str, into_backbone: bool) -> bool:
    return (
        f"/{BACKBONE}" not in name if into_backbone else name.startswith((CLASSIFIER, "params/auxiliary_classifier/"))
    )


def _check_alike(workdir: Path, other: ml_collections.ConfigDict, own: ml_collections.ConfigDict) -> None:
    for key, default in ALIKE.items():
        before = other.get(key, default)
        if own.get(key, default) != before:
            raise UserError(
                f"{workdir} was trained with model.{key}={before!r}; its weights need --config.model.{key}={before}"
            )
