"""Images in: sources of records, augmentation, and batches that are a pure function of (seed, step)."""

from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.data.pipeline import evaluation_batches, training_batches
from dynet_jax.data.replay import training_batch, training_examples
from dynet_jax.data.source import load_source

__all__ = [
    "CorruptImages",
    "evaluation_batches",
    "load_source",
    "training_batch",
    "training_batches",
    "training_examples",
]
