"""Sums over examples, as returned by steps."""

import jax


def means(sums: list[dict]) -> dict[str, float]:
    """Returns means over the examples of several batches' sums. This waits for the devices."""
    totals: dict[str, float] = {}
    for batch in jax.device_get(sums):
        for key, value in batch.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    examples = totals.pop("examples")
    return {key: value / examples for key, value in totals.items()}
