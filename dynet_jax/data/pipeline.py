"""Batches by Grain. A training batch is a pure function of (seed, step), whatever the number of hosts.

Nothing about the iterator has to be saved: resuming at step n asks for batch n. Host h of H takes the h-th part of each
global batch, so a different number of hosts sees the same global batches, in the same order.
"""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from dynet_jax.data.record import Source


class _HostPart:
    """The records of one host: local index k -> the global position it holds."""

    def __init__(self, records, length: int, global_batch: int, host: int, hosts: int):
        self._records, self._length = records, length
        self._global_batch, self._local, self._host = global_batch, global_batch // hosts, host

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int):
        batch, offset = divmod(int(index), self._local)
        return self._records[batch * self._global_batch + self._host * self._local + offset]


class _Padded:
    """A source followed by empty records, so that its length is a multiple of the batch; `mask` tells them apart."""

    def __init__(self, source: Source, transform: Callable, size: int):
        self._source, self._transform, self._size = source, transform, size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index < len(self._source):
            return {**self._transform(self._source[index]), "mask": np.float32(1)}
        empty = np.zeros((self._size, self._size, 3), np.uint8)
        return {"image": empty, "label": np.int32(0), "mask": np.float32(0)}


def training_batches(
    source: Source,
    transform: Callable,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    host: int = 0,
    hosts: int = 1,
    threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the batches start_step, start_step + 1, ..., without end.

    Args:
      source: the records. Each epoch visits every one once, in an order of its own.
      transform: (record, rng) -> a dict of arrays; the rng depends on seed and position only.
      batch_size: of the global batch; a multiple of `hosts`.
      threads: that read and decode ahead.
    Yields:
      'image' [batch_size / hosts, size, size, 3] uint8 and 'label' [batch_size / hosts] int32.
    """
    records = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(transform)
    local = batch_size // hosts
    endless = len(records) // batch_size
    part = _HostPart(records, endless * local, batch_size, host, hosts)
    images = grain.MapDataset.source(part)[start_step * local :]
    return iter(images.to_iter_dataset(_read_options(threads, local)).batch(local))


def evaluation_batches(
    source: Source,
    transform: Callable,
    *,
    size: int,
    batch_size: int,
    host: int = 0,
    hosts: int = 1,
    threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """Every record once, in order: this host's part of ceil(len(source) / batch_size) batches.

    The last batch is filled up with empty images; 'mask' is 1 for real examples and 0 for those, so that all hosts
    take the same number of steps and every example counts exactly once.
    """
    steps = -(-len(source) // batch_size)
    local = batch_size // hosts
    part = _HostPart(_Padded(source, transform, size), steps * local, batch_size, host, hosts)
    return iter(grain.MapDataset.source(part).to_iter_dataset(_read_options(threads, local)).batch(local))


def _read_options(threads: int, local_batch: int) -> grain.ReadOptions:
    # The buffer counts images: two batches ahead, less where batches are large.
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, min(2 * local_batch, 512)))
