"""How far coefficients move while a network trains: by stage, between images, from their mean, and from one half.

All three are root mean squares over the coefficients of a stage, made of sums over the batch, so that they are the same on
any number of devices: the sum of every coefficient over the images, and for each stage the sum of squares.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]

KEY = "coefficients"
KEPT = 0.99  # of a running mean, at every step
START = 0.5  # a sigmoid's; sums are of distances from it, which loses fewer digits while coefficients are near it
DEAD = 0.01  # a deviation between images below which a network is as good as static


def movement_sums(coefficients: Iterable[tuple[str, jax.Array]]) -> dict[str, Arrays]:
    """(layer, [batch, group_size, features]) -> {'sums': {layer: [group_size, features]}, 'squares': {layer: []}}."""
    distances = {name: jax.lax.stop_gradient(values) - START for name, values in coefficients}
    return {
        "sums": {name: values.sum(axis=0) for name, values in distances.items()},
        "squares": {name: jnp.square(values).sum() for name, values in distances.items()},
    }


def movement_metrics(
    sums: Mapping[str, Arrays], examples: jax.Array, running: Arrays
) -> tuple[dict[str, jax.Array], Arrays]:
    """What `movement_sums` gives, summed over `examples` images, and the running means before this step.

    Returns {'coefficients/stage1/deviation': ..., '.../from_mean', '.../from_half'} and the running means after it. A
    running mean of 0, which no sigmoid or softmax has, is one that has yet to begin.
    """
    parts: dict[str, list] = {}
    means = {name: total / examples for name, total in sums["sums"].items()}
    centers = {name: jnp.where(running[name] == 0, mean, running[name] - START) for name, mean in means.items()}
    for name, mean in means.items():
        from_half = sums["squares"][name] / examples
        between_images = from_half - jnp.square(mean).sum()
        from_mean = between_images + jnp.square(mean - centers[name]).sum()
        parts.setdefault(stage_of(name), []).append((between_images, from_mean, from_half, float(mean.size)))
    metrics = {}
    for stage, rows in parts.items():
        *squares, count = map(sum, zip(*rows))
        for key, square in zip(("deviation", "from_mean", "from_half"), squares):
            metrics[f"{KEY}/{stage}/{key}"] = jnp.sqrt(jnp.maximum(square, 0.0) / count)
    after = {name: START + KEPT * centers[name] + (1 - KEPT) * mean for name, mean in means.items()}
    return metrics, after


def stage_of(name: str) -> str:
    """Of a convolution's name: its stage in this package's networks, and its first part in others.

    >>> stage_of("backbone/stage3_block1/spatial"), stage_of("conv1"), stage_of("Block_0/conv1")
    ('stage3', 'conv1', 'Block_0')
    """
    stage = re.search(r"(?:^|/)(stage\d+)(?=_|/|$)", name)
    return stage.group(1) if stage else name.partition("/")[0]


def of_stages(metrics: Mapping[str, float], key: str) -> dict[str, float]:
    """{stage: value} of one of the three, out of a row of metrics.

    >>> of_stages({"loss": 1.0, "coefficients/stage2/deviation": 0.1, "coefficients/stage2/from_half": 0.2}, "deviation")
    {'stage2': 0.1}
    """
    found = (name.split("/") for name in metrics if name.startswith(f"{KEY}/") and name.endswith(f"/{key}"))
    return {stage: metrics[f"{KEY}/{stage}/{key}"] for _, stage, _ in found}


class DeadCoefficients:
    """Says once that coefficients hardly depend on the image, at the first report after a tenth of the steps."""

    def __init__(self, total_steps: int, warn: Callable[[str], None]):
        self._from, self._warn = total_steps / 10, warn

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """At a report's metrics."""
        deviations = of_stages(metrics, "deviation")
        if self._warn is None or not deviations or step < self._from:
            return
        largest = max(deviations.values())
        if largest < DEAD:
            self._warn(
                f"coefficients hardly depend on the image: at step {step} they deviate by {largest:.4f} between images in the "
                "stage where they deviate most. So far the network is nearly static; predictors learn faster with "
                """--config.learning_rate_factors='[["predictor", 100]]' (docs/training.md)"""
            )
        self._warn = None
