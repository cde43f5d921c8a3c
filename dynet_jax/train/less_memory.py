"""The settings that reduce the memory of a run, limited to options of the same command."""

from collections.abc import Iterator

from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.models.registry import default_arguments
from dynet_jax.train.setup import Run


def less_memory(run: Run, *, goes_on: bool) -> str:
    """Returns the options that need less memory. goes_on: whether there are checkpoints, which fix the batch size."""
    return f"use {' or '.join(_options(run, goes_on))}"


def _options(run: Run, goes_on: bool) -> Iterator[str]:
    config = run.config
    batch, parts = config.batch_size, config.accumulation_steps
    fitting = [factor for factor in (2, 4, 8, 16) if _fits(run, batch, parts * factor)]
    if fitting:
        yield f"--config.accumulation_steps={parts * fitting[0]}"
    if "remat" in default_arguments(config.model.name) and not config.model.get("remat"):
        yield "--config.model.remat=True"
    smaller = [batch // factor for factor in (2, 4, 8) if batch % factor == 0 and _fits(run, batch // factor, parts)]
    if smaller and not goes_on:
        yield f"--config.batch_size={smaller[0]}"
    yield "fewer --config.data.threads"


def _fits(run: Run, batch: int, parts: int) -> bool:
    try:
        make_layout(batch, run.config.bn_batch_size, parts, devices=run.layout.mesh.devices.ravel())
    except UserError:
        return False
    return True
