"""The movement of coefficients during training: per stage, between images, from their mean, and from one half.

All three are root mean squares over the coefficients of a stage. They are computed from sums over the batch, of every
coefficient and of the squares of a stage's coefficients, so they are the same on any number of devices.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from dynet_jax.layers.coefficients import per_image

Arrays = dict[str, jax.Array]

KEY = "coefficients"
KEPT = 0.99  # the decay of the running means, per step
DEAD, EARLY = 0.01, 300  # a smaller deviation between images, after this many steps, means a nearly static network


def by_stage(coefficients: Iterable[tuple[str, jax.Array]], images: int) -> Arrays:
    """Returns {stage: [images, all coefficients of its layers, sorted by name]}.

    coefficients: pairs of a layer's name and its coefficients, [rows, group_size, features].

    A network may fold an image's windows or frames into the batch of a layer, which then has several rows per image;
    their mean is used. A layer with fewer rows than images is left out.
    There is one array per stage, because an accelerator takes longer to start fifty small sums than to compute one.
    """
    layers: dict[str, list] = {}
    for name, values in sorted(coefficients, key=lambda named: named[0]):
        if values.shape[0] % images == 0:
            layers.setdefault(stage_of(name), []).append(per_image(values, images).reshape(images, -1))
    return {stage: jnp.concatenate(parts, axis=1) for stage, parts in layers.items()}


def movement_sums(coefficients: Arrays, running: Arrays) -> dict[str, Arrays]:
    """Returns sums over some images for `movement_metrics`; they may be added up over devices.

    coefficients: {stage: [batch, n]}. running: {stage: [n]}, the running means; a stage without them is not measured.
    The result, {'sums': {stage: [n]}, 'squares': {stage: []}}, is about distances from the running means, because
    rounding would lose small deviations of the coefficients themselves.
    """
    distances = {n: jax.lax.stop_gradient(coefficients[n]) - _center(running[n]) for n in running if n in coefficients}
    return {
        "sums": {stage: values.sum(axis=0) for stage, values in distances.items()},
        "squares": {stage: jnp.square(values).sum() for stage, values in distances.items()},
    }


def movement_metrics(
    sums: Mapping[str, Arrays], examples: jax.Array, running: Arrays
) -> tuple[dict[str, jax.Array], Arrays]:
    """Returns the metrics of sums from `movement_sums`, added up over `examples` images, and new running means.

    The metrics are {'coefficients/stage1/deviation': ..., '.../from_mean', '.../from_half'}.
    """
    metrics, after = {}, dict(running)
    for stage, total in sums["sums"].items():
        mean, begun = total / examples, running[stage] != 0  # the mean of distances
        between_images = sums["squares"][stage] / examples - jnp.square(mean).sum()
        batch_mean = _center(running[stage]) + mean
        squares = {
            "deviation": between_images,
            "from_mean": between_images + jnp.where(begun, jnp.square(mean), 0.0).sum(),
            "from_half": between_images + jnp.square(batch_mean - 0.5).sum(),
        }
        for key, square in squares.items():
            metrics[f"{KEY}/{stage}/{key}"] = jnp.sqrt(jnp.maximum(square, 0.0) / mean.size)
        after[stage] = jnp.where(begun, running[stage] + (1 - KEPT) * mean, batch_mean)
    return metrics, after


def _center(running: jax.Array) -> jax.Array:
    """Returns the running mean, or 0.5 where it is 0: no sigmoid or softmax has mean 0, so it has not started yet."""
    return jnp.where(running == 0, 0.5, running)


def stage_of(name: str) -> str:
    """Returns the stage of a convolution by its name; in networks of others, the first part of the name.

    >>> stage_of("backbone/stage3_block1/spatial"), stage_of("conv1"), stage_of("Block_0/conv1"), stage_of("own (2)")
    ('stage3', 'conv1', 'Block_0', 'own')
    """
    stage = re.search(r"(?:^|/)(stage\d+)(?=_|/|$)", name)
    return stage.group(1) if stage else name.partition("/")[0].partition(" (")[0]


def of_stages(metrics: Mapping[str, float], key: str) -> dict[str, float]:
    """Returns {stage: value} of one of the three metrics in a row.

    >>> row = {"loss": 1.0, "coefficients/stage2/deviation": 0.1, "coefficients/stage2/from_half": 0.2}
    >>> of_stages(row, "deviation")
    {'stage2': 0.1}
    """
    found = (name.split("/") for name in metrics if name.startswith(f"{KEY}/") and name.endswith(f"/{key}"))
    return {stage: metrics[f"{KEY}/{stage}/{key}"] for _, stage, _ in found}


class DeadCoefficients:
    """A one-time warning that coefficients hardly depend on the image, at the first report after a tenth of the steps.

    It does not warn within the first `EARLY` steps of a run, when no network has got far, nor before `annealed_at`, the
    step at which the temperature stops holding coefficients together.
    """

    def __init__(self, total_steps: int, warn: Callable[[str], None], annealed_at: int = 0):
        self._from = max(EARLY, total_steps / 10, annealed_at)
        self._warn: Callable[[str], None] | None = warn

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Checks the metrics of a report."""
        deviations = of_stages(metrics, "deviation")
        if self._warn is None or not deviations or step < self._from:
            return
        largest = max(deviations.values())
        if largest < DEAD:
            self._warn(
                f"coefficients hardly depend on the image: at step {step} they deviate by {largest:.4f} between images "
                "in the stage where they deviate most, and the network is nearly static. Predictors learn faster with "
                """--config.learning_rate_factors='[["predictor", 100]]' (docs/training.md)"""
            )
        self._warn = None
