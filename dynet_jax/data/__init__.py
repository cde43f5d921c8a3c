"""The input pipeline: sources of records, augmentation, and batches that are a pure function of (seed, step).

The modules here, which may register datasets, are imported when the first of these names is used: a command's --help,
and a network without data, need none of the packages that read images.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def modules() -> list:
    """Imports all modules of this package, and returns them."""
    return [importlib.import_module(module.name) for module in pkgutil.iter_modules(__path__, f"{__name__}.")]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return next(getattr(module, name) for module in modules() if hasattr(module, name))
