"""The examples in the training batch of a step, and the batch itself again, to find out what went wrong."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dynet_jax.data.loading import Example, TrainingLoader
from dynet_jax.data.pipeline import shuffled, stack
from dynet_jax.data.record import Source
from dynet_jax.errors import UserError
from dynet_jax.machine import cores


def training_examples(source: Source, *, batch_size: int, seed: int, step: int) -> list[int]:
    """Returns the indices of the records drawn for the global batch of a step, in order, without reading them.

    A drawn record that cannot be decoded was replaced by the next one that can; `training_batch` shows this.

    >>> from dynet_jax.data import load_source
    >>> digits = load_source("digits", "train")
    >>> indices = training_examples(digits, batch_size=4, seed=0, step=100)
    >>> len(indices), [digits.name_of(index) for index in indices][0] == f"digits/train/{indices[0]}"
    (4, True)
    """
    positions: Any = shuffled(source, seed)
    return [int(positions[position]) for position in range(step * batch_size, (step + 1) * batch_size)]


def training_batch(
    source: Source, transform, *, batch_size: int, seed: int, step: int, threads: int | None = None
) -> tuple[dict[str, np.ndarray], list[Example]]:
    """Returns the global batch of `training_batches` at a step, and its examples with the records' indices and names.

    Raises UserError if none of the records can be used.
    """
    examples: Any = shuffled(source, seed).random_map(TrainingLoader(source, transform, limit=len(source)))
    with ThreadPoolExecutor(threads or len(cores())) as pool:
        loaded = list(pool.map(examples.__getitem__, range(step * batch_size, (step + 1) * batch_size)))
    if not all(example.arrays for example in loaded):
        raise UserError("none of the images can be used")
    return stack(loaded), loaded
