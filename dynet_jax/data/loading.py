"""From an index to an example. A record that cannot be used is replaced in training, and masked out in evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dynet_jax.bucket import Refused
from dynet_jax.data.corrupt import Damage
from dynet_jax.data.decode import decode
from dynet_jax.data.record import Arrays, Record, Source, UnknownClass
from dynet_jax.errors import UserError
from dynet_jax.memory import is_out_of_memory


class Example(NamedTuple):
    """What a batch is made of: arrays, the record they come from, and the damaged records met on the way to it.

    Without arrays where none was found.
    """

    arrays: Arrays
    index: int
    name: str
    damages: tuple[Damage, ...] = ()


class TrainingLoader:
    """(index, rng) -> the example of that record, or else of the next one that can be used, wrapping round.

    The rng is the same whichever record it is, so an example is a function of the data set, the seed and the position.
    The search ends, without arrays, at the end of the source, or when it has met more than `limit` damaged ones.
    Nothing is raised for them here: this runs ahead of the batches, which is not where a run should end.
    """

    def __init__(self, source: Source, transform: Callable, limit: int):
        self._source, self._transform, self._limit = source, transform, limit

    def __call__(self, index: int, rng: np.random.Generator) -> Example:
        damages = []
        length = len(self._source)
        for candidate in range(index, index + length):
            record = read_record(self._source, candidate % length)
            if isinstance(record, Record):
                return Example(self._transform(record, rng), candidate % length, record.name, tuple(damages))
            damages.append(record)
            if len(damages) > self._limit:
                break
        return Example({}, index, "", tuple(damages))


class EvaluationLoader:
    """index -> the example of that record, with 'mask' 1. Where there is none, `blank` with 'mask' 0.

    There is none behind the end of the source, where batches are filled up, and for a record that cannot be used.
    """

    def __init__(self, source: Source, transform: Callable, blank: Arrays):
        self._source, self._transform, self._blank = source, transform, {**blank, "mask": np.float32(0)}

    def __call__(self, index: int) -> Example:
        if index >= len(self._source):
            return Example(self._blank, index, "")
        record = read_record(self._source, index)
        if isinstance(record, Record):
            return Example({**self._transform(record), "mask": np.float32(1)}, index, record.name)
        return Example(self._blank, index, record.name, (record,))


def read_record(source: Source, index: int) -> Record | Damage:
    """Returns a record with its image and its map of classes decoded, or why there is none."""
    try:
        record = source[index]
    except Refused:
        raise  # by the bucket: nothing is wrong with the image
    except (OSError, UserError) as error:
        if is_out_of_memory(error):
            raise  # nothing is wrong with the image
        name = source.name_of(index)
        return Damage(name, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        record = record._replace(image=decode(record.image, record.name))
        if hasattr(record.label, "decode"):
            record = record._replace(label=record.label.decode())
        if isinstance(record.label, np.ndarray) and record.label.shape != record.image.shape[:2]:
            sizes = " and ".join("x".join(map(str, array.shape[:2])) for array in (record.image, record.label))
            raise UserError(f"{record.name} and its label have different sizes: {sizes}")
        return record
    except UnknownClass:
        raise
    except UserError as error:
        return Damage(record.name, str(error))
