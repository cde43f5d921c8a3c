"""The learning-rate factor of predictors with which coefficients move as fast as kernels.

    python -m benchmarks.predictor_speed configs/dy_resnet18.py:cifar10 --config.data.name=packed:DIR

follows the gradient of the first training batch from a new network, and compares, by stage, how fast the two factors of
a fused kernel change relative to their size: fixed kernels, |dw| / |w|, and coefficients, |dc| / |c|. The change of
coefficients is split into the part shared by all images and the part that differs between images. A row holds the
factors with which either would be as fast as the kernels. Residual branches do not start at zero here, because nothing
inside them would have a gradient.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.arguments import make_parser
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import overrides, report_mistakes
from dynet_jax.config.load import check_config, load_config, override
from dynet_jax.data import training_batch
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.layers.coefficients import COLLECTION, named_coefficients, sown_coefficients
from dynet_jax.models.registry import PREDICTORS
from dynet_jax.ops.pixels import normalize
from dynet_jax.train.movement import stage_of
from dynet_jax.train.setup import Run, make_run, open_data

HEADER = ("stage", "factor for what images share", "factor for what differs between images")


def relative_speeds(run: Run, images: jax.Array, labels: jax.Array) -> dict[str, tuple[float, float, float]]:
    """Returns {stage: relative speeds of kernels, of mean coefficients, and of their differences from the mean}.

    All are root mean squares over a stage, per unit of learning rate. Raises UserError for a static network.
    """
    variables = run.fresh_state().variables
    inputs = normalize(images, **run.pixels)

    def forward(params):
        with sown_coefficients():
            outputs, updates = run.model.apply(
                {**variables, "params": params}, inputs, train=True, mutable=["batch_stats", COLLECTION]
            )
        return outputs, dict(named_coefficients(updates.get(COLLECTION, {})))

    @jax.jit
    def speeds(params):
        gradient = jax.grad(lambda p: jnp.mean(run.task.losses(forward(p)[0], labels)[0]))(params)
        predictors = jax.tree_util.tree_map_with_path(
            lambda path, leaf: -leaf if any(key.key == PREDICTORS for key in path) else 0 * leaf, gradient
        )
        coefficients, changes = jax.jvp(lambda p: forward(p)[1], (params,), (predictors,))
        return gradient, coefficients, changes

    gradient, coefficients, changes = jax.device_get(speeds(variables["params"]))
    if not coefficients:
        raise UserError(f"{run.config.model.name} is static: it has no predictors")
    params = flatten_dict(variables["params"], sep="/")
    rows: dict[str, list] = {}
    for name, slope in flatten_dict(gradient, sep="/").items():
        layer = name.removesuffix("/kernels")
        if layer in coefficients:
            shared = changes[layer].mean(axis=0)
            parts = (slope, params[name], shared, changes[layer] - shared, coefficients[layer])
            rows.setdefault(stage_of(layer), []).append([np.square(part).mean() for part in parts])
    means = {stage: np.sqrt(np.mean(squares, axis=0)) for stage, squares in rows.items()}
    return {stage: (k / w, shared / c, own / c) for stage, (k, w, shared, own, c) in means.items()}


def table(run: Run, images, labels) -> Table:
    """Returns a table of the factors with a row for each stage."""
    rows = []
    for stage, (kernels, shared, differing) in relative_speeds(run, images, labels).items():
        rows.append((stage, f"{kernels / shared:.1f}", f"{kernels / differing:.0f}"))
    return Table(HEADER, rows)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("predictor_speed", __doc__)
    parser.add_argument("config", metavar="FILE[:VARIANT]")
    options, rest = parser.parse_known_args(arguments)
    config = load_config(options.config)
    override(config, ["model.zero_init_residual=false", *overrides(rest)])
    check_config(config)
    source = open_data(config, "train")
    run = make_run(config, len(source), make_layout(config.batch_size, config.bn_batch_size, devices=jax.devices()[:1]))
    transform = run.task.training_transform()
    batch, _ = training_batch(source, transform, batch_size=config.batch_size, seed=config.seed, step=0)
    print(table(run, jnp.asarray(batch["image"]), jnp.asarray(batch["label"])).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("predictor_speed", main))
