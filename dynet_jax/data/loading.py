"""From an index to an example. An unusable record is replaced in training, and masked out in evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dynet_jax.bucket import Refused
from dynet_jax.data.corrupt import Damage
from dynet_jax.data.decode import decode
from dynet_jax.data.partial import PartialJpeg
from dynet_jax.data.record import Arrays, Record, Source, UnknownClass
from dynet_jax.errors import UserError
from dynet_jax.memory import is_out_of_memory


class Example(NamedTuple):
    """An element of a batch: arrays, the record they come from, and the damaged records skipped on the way to it.

    The arrays are empty if no usable record was found.
    """

    arrays: Arrays
    index: int
    name: str
    damages: tuple[Damage, ...] = ()


class TrainingLoader:
    """A function (index, rng) -> the example of that record, or of the next usable one, wrapping around.

    The rng is the same for every record, so an example is a function of the dataset, the seed and the position.
    The search ends, without arrays, after the whole source or after more than `limit` damaged records. It raises
    nothing, because it runs ahead of the batches, where a run should not end.
    """

    def __init__(self, source: Source, transform: Callable, limit: int):
        self._source, self._transform, self._limit = source, transform, limit
        self._open_image = getattr(transform, "open_image", decode)

    def __call__(self, index: int, rng: np.random.Generator) -> Example:
        damages = []
        length = len(self._source)
        for candidate in range(index, index + length):
            record = read_record(self._source, candidate % length, self._open_image)
            arrays = self._transformed(record, rng) if isinstance(record, Record) else record
            if not isinstance(arrays, Damage):
                return Example(arrays, candidate % length, record.name, tuple(damages))
            damages.append(arrays)
            if len(damages) > self._limit:
                break
        return Example({}, index, "", tuple(damages))

    def _transformed(self, record: Record, rng: np.random.Generator) -> Arrays | Damage:
        if not isinstance(record.image, PartialJpeg):
            return self._transform(record, rng)
        state = rng.bit_generator.state
        try:
            return self._transform(record, rng)
        except UserError as error:  # decoding what was cropped has found the damage, after the crop was drawn
            rng.bit_generator.state = state
            return Damage(record.name, str(error))


class EvaluationLoader:
    """A function index -> the example of that record, with 'mask' 1; if there is none, `blank` with 'mask' 0.

    There is none after the end of the source, where the last batch is filled up, and for an unusable record.
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


def read_record(source: Source, index: int, open_image: Callable = decode) -> Record | Damage:
    """Returns a record with its image, opened by (bytes, name) -> image, and its class map decoded, or the damage."""
    try:
        record = source[index]
    except Refused:
        raise  # the bucket denied access: nothing is wrong with the image
    except (OSError, UserError) as error:
        if is_out_of_memory(error):
            raise  # nothing is wrong with the image
        name = source.name_of(index)
        return Damage(name, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        record = record._replace(image=open_image(record.image, record.name))
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
