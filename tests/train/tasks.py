"""Tasks for steps that are tested without a run."""

import ml_collections

from dynet_jax.tasks.classification import Classification


def classification(label_smoothing: float = 0.0) -> Classification:
    return Classification(ml_collections.ConfigDict({"label_smoothing": label_smoothing}))
