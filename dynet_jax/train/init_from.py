"""Fine-tuning: a new run that begins with another run's parameters."""

from pathlib import Path

import jax

from dynet_jax.errors import UserError
from dynet_jax.train.integrity import named_leaves
from dynet_jax.train.restore import load_workdir
from dynet_jax.train.setup import Run
from dynet_jax.train.state import TrainState

CLASSIFIER = "params/classifier/"


def initialise_from(workdir: Path, run: Run) -> tuple[TrainState, list[str]]:
    """The run's state at step 0 with the parameters and statistics of another work directory's newest checkpoint.

    A classifier for another number of classes begins anew. Moving averages are taken where the other run has some.
    Returns the state and the names of the arrays that are new.

    Raises UserError if anything but the classifier differs, or there is no whole checkpoint.
    """
    other = load_workdir(workdir)[1].averaged_variables
    fresh = run.fresh_state()
    found, wanted = named_leaves(other), named_leaves(fresh.variables)
    new = [name for name, leaf in wanted.items() if name not in found or found[name].shape != leaf.shape]
    extra = [name for name in found if name not in wanted]
    strange = [name for name in (*new, *extra) if not name.startswith(CLASSIFIER)]
    if strange:
        more = f", and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise UserError(
            f"{workdir} holds another network than {run.config.model.name}: {', '.join(strange[:5])}{more} differ; "
            "--init_from takes the same network, which may have another number of classes"
        )
    if new:
        new = [name for name in wanted if name.startswith(CLASSIFIER)]
    leaves = [leaf if name in new else jax.device_put(found[name], leaf.sharding) for name, leaf in wanted.items()]
    variables = jax.tree.unflatten(jax.tree.structure(fresh.variables), leaves)
    state = fresh.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    return (state.replace(ema=jax.tree.map(lambda leaf: leaf.copy(), variables)) if fresh.ema else state), new
