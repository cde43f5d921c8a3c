"""How far coefficients move while a network trains: by stage, between images, from their mean, and from one half.

All three are root mean squares over the coefficients of a stage. They are made of sums over the batch, the sum of every
coefficient and that of the squares of a layer's coefficients, and so they are the same on any number of devices.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]

KEY = "coefficients"
KEPT = 0.99  # of a running mean, at every step
DEAD, EARLY = 0.01, 300  # a deviation between images below which a network is as good as static, after so many steps


def movement_sums(coefficients: Iterable[tuple[str, jax.Array]], running: Arrays) -> dict[str, Arrays]:
    """What `movement_metrics` needs of some images: sums over them that may be added up over devices.

    coefficients: (layer, [batch, group_size, features]). running: {layer: [group_size, features]}, the running means.
    Returns {'sums': {layer: [group_size, features]}, 'squares': {layer: []}} of distances from the running means: of
    coefficients themselves, small deviations would be lost by rounding.
    """
    distances = {n: jax.lax.stop_gradient(values) - _center(running[n]) for n, values in coefficients}
    return {
        "sums": {name: values.sum(axis=0) for name, values in distances.items()},
        "squares": {name: jnp.square(values).sum() for name, values in distances.items()},
    }


def movement_metrics(
    sums: Mapping[str, Arrays], examples: jax.Array, running: Arrays
) -> tuple[dict[str, jax.Array], Arrays]:
    """What `movement_sums` gives, added up over `examples` images, and the same running means.

    Returns {'coefficients/stage1/deviation': ..., '.../from_mean', '.../from_half'} and the running means after it.
    """
    parts: dict[str, list] = {}
    after = {}
    for name, total in sums["sums"].items():
        mean = total / examples  # of distances
        between_images = sums["squares"][name] / examples - jnp.square(mean).sum()
        batch_mean = _center(running[name]) + mean
        begun = running[name] != 0
        from_mean = between_images + jnp.where(begun, jnp.square(mean), 0.0).sum()
        from_half = between_images + jnp.square(batch_mean - 0.5).sum()
        parts.setdefault(stage_of(name), []).append((between_images, from_mean, from_half, float(mean.size)))
        after[name] = jnp.where(begun, running[name] + (1 - KEPT) * mean, batch_mean)
    metrics = {}
    for stage, rows in parts.items():
        *squares, count = map(sum, zip(*rows))
        for key, square in zip(("deviation", "from_mean", "from_half"), squares):
            metrics[f"{KEY}/{stage}/{key}"] = jnp.sqrt(jnp.maximum(square, 0.0) / count)
    return metrics, after


def _center(running: jax.Array) -> jax.Array:
    """The running mean; where it is 0, which that of no sigmoid or softmax is, it has yet to begin."""
    return jnp.where(running == 0, 0.5, running)


def stage_of(name: str) -> str:
    """Of a convolution's name: its stage in this package's networks, and its first part in others.

    >>> stage_of("backbone/stage3_block1/spatial"), stage_of("conv1"), stage_of("Block_0/conv1")
    ('stage3', 'conv1', 'Block_0')
    """
    stage = re.search(r"(?:^|/)(stage\d+)(?=_|/|$)", name)
    return stage.group(1) if stage else name.partition("/")[0]


def of_stages(metrics: Mapping[str, float], key: str) -> dict[str, float]:
    """{stage: value} of one of the three, out of a row of metrics.

    >>> row = {"loss": 1.0, "coefficients/stage2/deviation": 0.1, "coefficients/stage2/from_half": 0.2}
    >>> of_stages(row, "deviation")
    {'stage2': 0.1}
    """
    found = (name.split("/") for name in metrics if name.startswith(f"{KEY}/") and name.endswith(f"/{key}"))
    return {stage: metrics[f"{KEY}/{stage}/{key}"] for _, stage, _ in found}


class DeadCoefficients:
    """Says once that coefficients hardly depend on the image: at the first report after a tenth of the steps.

    Nothing is said of the first `EARLY` steps of a run, in which no network has got far.
    """

    def __init__(self, total_steps: int, warn: Callable[[str], None]):
        self._from, self._warn = max(EARLY, total_steps / 10), warn

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """At a report's metrics."""
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
