"""Batches by Grain. A training batch is a pure function of (seed, step), independent of hosts, threads and processes.

The iterator has no state to save: resuming at step n requests batch n. Host h of H takes the h-th part of each global
batch, so a different number of hosts sees the same global batches, in the same order.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from dynet_jax.data.corrupt import CorruptImages
from dynet_jax.data.loading import EvaluationLoader, Example, TrainingLoader
from dynet_jax.data.record import Arrays, Source
from dynet_jax.data.workers import in_processes
from dynet_jax.errors import UserError
from dynet_jax.machine import cores


def training_batches(
    source: Source,
    transform: Callable,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    host: int = 0,
    hosts: int = 1,
    threads: int | None = None,
    workers: int = 0,
    corrupt: CorruptImages | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an endless iterator over this host's part of the batches start_step, start_step + 1, ...

    Args:
      source: the records. Each epoch visits every one once, in its own order. A record that cannot be read or decoded
        is replaced by the next one that can.
      transform: (record with a decoded image, rng) -> a dict of arrays; the rng depends only on seed and position.
      batch_size: size of the global batch; a multiple of `hosts`.
      threads: number of threads that read and decode ahead, in each process; None for the number of cores.
      workers: number of processes that read and decode ahead; 0 for only threads of this process.
      corrupt: where unusable images are reported and counted; by default this iterator has its own count.
    Yields:
      'image' [batch_size / hosts, size, size, 3] uint8 and 'label' [batch_size / hosts, ...].
    Raises:
      UserError: while iterating, if there are more corrupt images than allowed.

    >>> import dynet_jax.data as data
    >>> from dynet_jax.data.augment import make_training_transform
    >>> digits, transform = data.load_source("digits", "train"), make_training_transform(8, "none", flip=False)
    >>> batch = next(data.training_batches(digits, transform, batch_size=4, seed=0, start_step=100))
    >>> batch["image"].shape
    (4, 8, 8, 3)
    """
    corrupt = corrupt or CorruptImages()
    records = shuffled(source, seed).random_map(TrainingLoader(source, transform, corrupt.limit))
    endless = len(records) // batch_size - workers  # a length is an int64, also when rounded up for the workers
    part = _HostPart(records, start_step, endless, batch_size, host, hosts, workers)
    return _deliver(_batches(part, threads, workers), corrupt, "the next image replaces it")


def evaluation_batches(
    source: Source,
    transform: Callable,
    *,
    blank: Arrays,
    batch_size: int,
    host: int = 0,
    hosts: int = 1,
    threads: int | None = None,
    workers: int = 0,
    corrupt: CorruptImages | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an iterator over every record once, in order: this host's part of ceil(len(source) / batch_size) batches.

    'mask' is 1 for an example that counts. It is 0 for examples that fill up the last batch, so that all hosts take the
    same number of steps, and for records that cannot be read or decoded; both are `blank`, the arrays of an empty
    example. The other arguments are those of `training_batches`, except that the transform has no rng: record with a
    decoded image -> arrays.
    """
    corrupt = corrupt or CorruptImages()
    steps = -(-len(source) // batch_size)
    examples = _Mapped(EvaluationLoader(source, transform, blank))
    part = _HostPart(examples, 0, steps, batch_size, host, hosts, workers)
    batches = _deliver(_batches(part, threads, workers), corrupt, "it is left out of the evaluation")
    return itertools.islice(batches, steps)


def shuffled(source: Source, seed: int) -> grain.MapDataset:
    """Returns a mapping from the position in training (without end) to the index in the source."""
    return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()


def threads_for(workers: int) -> int:
    """Returns the number of threads per process if the available cores are divided among these workers."""
    return -(-len(cores()) // max(workers, 1))


def stack(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Returns stacked examples: {'image': [n, size, size, 3], ...}."""
    return {key: np.stack([example.arrays[key] for example in examples]) for key in examples[0].arrays}


class _Mapped:
    """A function of an index as a sequence."""

    def __init__(self, function: Callable):
        self._function = function

    def __getitem__(self, index: int):
        return self._function(index)


class _HostPart:
    """The examples of one host from a step on: local index k -> the example at the corresponding global position.

    With W worker processes, Grain passes indices w, w + W, w + 2 W, ... to the w-th, and takes batches from them in
    rotation. The indices are distributed so that each worker makes whole batches: the w-th those of steps w, w + W, ...
    """

    def __init__(self, examples, start: int, stop: int, global_batch: int, host: int, hosts: int, workers: int):
        self.local_batch = global_batch // hosts
        self._examples, self._start, self._workers = examples, start, max(workers, 1)
        self._global_batch, self._offset = global_batch, host * self.local_batch
        rounds = -(-(stop - start) // self._workers)  # all workers make the same number
        self._length = rounds * self._workers * self.local_batch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        turn, worker = divmod(int(index), self._workers)
        turn, offset = divmod(turn, self.local_batch)
        step = self._start + turn * self._workers + worker
        return self._examples[step * self._global_batch + self._offset + offset]


def _batches(part: _HostPart, threads: int | None, workers: int) -> grain.DatasetIterator:
    """Returns an iterator over (batch, damages) pairs."""
    threads = threads or threads_for(workers)
    # The buffer counts images: two batches ahead, fewer if batches are large or workers share the work.
    ahead = max(threads, min(2 * part.local_batch // max(workers, 1), 512))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    batches = grain.MapDataset.source(part).to_iter_dataset(options).batch(part.local_batch, batch_fn=_with_damages)
    return iter(in_processes(batches, workers) if workers else batches)


def _with_damages(examples: Sequence[Example]):
    batch = stack(examples) if all(example.arrays for example in examples) else None
    return batch, [damage for example in examples for damage in example.damages]


def _deliver(batches: grain.DatasetIterator, corrupt: CorruptImages, consequence: str) -> Iterator[dict]:
    try:
        while (item := next(batches, None)) is not None:
            batch, damages = item
            corrupt.note(damages, consequence)
            if batch is None:
                raise UserError(f"none of the images can be used; for example, {damages[-1].reason}")
            # Arrays from a worker process are in shared memory, which is scarce, so they are copied to ordinary memory.
            batch = {key: value if type(value) is np.ndarray else np.array(value) for key, value in batch.items()}
            del item
            yield batch
    finally:
        batches.close()
