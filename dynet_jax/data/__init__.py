"""The input pipeline: sources of records, augmentation, and batches that are a pure function of (seed, step).

Every module here is imported, and may register datasets.
"""

import importlib
import pkgutil

from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.data.pipeline import evaluation_batches, training_batches
from dynet_jax.data.replay import training_batch, training_examples
from dynet_jax.data.source import list_datasets, load_source, register_dataset

__all__ = [
    "CorruptImages",
    "evaluation_batches",
    "list_datasets",
    "load_source",
    "register_dataset",
    "training_batch",
    "training_batches",
    "training_examples",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
