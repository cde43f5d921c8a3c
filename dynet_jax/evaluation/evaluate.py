"""Exact evaluation: every test example counts once, on any number of devices and hosts."""

from collections.abc import Callable, Iterator
from typing import Protocol

import jax

from dynet_jax import data
from dynet_jax.data.record import Source
from dynet_jax.devices import to_devices
from dynet_jax.errors import UserError
from dynet_jax.evaluation.placed import PlacedNetwork


def evaluation_batch_size(network: PlacedNetwork, examples: int) -> int:
    """Returns the network's batch size, limited to the test set and rounded up to a multiple of the devices."""
    devices = network.layout.mesh.size
    at_once = network.batch or network.config.batch_size // network.config.accumulation_steps
    return -(-min(at_once, examples) // devices) * devices


class Vote(Protocol):
    """The interface of `StopVote`."""

    @property
    def decided(self) -> bool: ...
    def attach(self, batch: dict) -> dict: ...
    def count(self, sums: dict) -> dict: ...


def evaluate(
    network: PlacedNetwork, eval_step: Callable, variables: dict, source: Source, vote: Vote | None = None
) -> dict[str, float] | None:
    """Returns the task's metrics over the decodable 'examples' of the source; the loss has no label smoothing.

    Raises UserError if none can be decoded. Returns None if the vote, asked before every batch, decides to stop.
    """
    sums = []
    for batch in device_batches(network, source):
        if vote is None:
            sums.append(eval_step(variables, batch))
        elif vote.decided:
            return None
        else:
            sums.append(vote.count(eval_step(variables, vote.attach(batch))))
    return summarise(network, sums, source)


def device_batches(network: PlacedNetwork, source: Source) -> Iterator[dict[str, jax.Array]]:
    """Returns the examples of a source in order, as batches on the devices, with a 'mask' of 1 for actual examples."""
    batches = data.evaluation_batches(
        source,
        network.task.evaluation_transform(),
        blank=network.task.blank(training=False),
        batch_size=evaluation_batch_size(network, len(source)),
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=network.config.data.threads,
        workers=network.config.data.workers,
        corrupt=network.corrupt,
    )
    return (to_devices(batch, network.layout) for batch in batches)


def summarise(network: PlacedNetwork, sums: list[dict], source: Source) -> dict[str, float]:
    """Returns the task's metrics, and 'examples'. Raises UserError if there are none."""
    examples = int(sum(batch["examples"] for batch in jax.device_get(sums)))
    if not examples:
        raise UserError(f"none of the {len(source)} test images can be decoded")
    return {**network.task.metrics(sums), "examples": examples}
