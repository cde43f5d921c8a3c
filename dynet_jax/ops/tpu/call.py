"""What all kernels of this package tell Pallas and XLA alike."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dynet_jax.ops.tpu.tiles import hbm_bytes

VMEM_BYTES = 64 * 2**20  # that a call may take of the VMEM of a core: 128 MiB, 64 in v5p


def call(
    kernel: Callable,
    name: str,
    inputs: tuple[Any, ...],
    outputs: tuple[jax.ShapeDtypeStruct | None, ...],
    scratch: tuple[jax.ShapeDtypeStruct, ...],
    *,
    grid: tuple[int, ...],
    in_specs: tuple[Any, ...],
    out_specs: tuple[pl.BlockSpec | None, ...],
    activation: str | None,
    flops: int,
    bytes_accessed: int | None = None,
    interpret: bool,
    dimension_semantics: tuple[Literal["parallel", "arbitrary"], ...] = ("parallel", "arbitrary"),
) -> tuple[Any, ...]:
    """Runs `kernel(*inputs, *outputs, scratch, activation=activation)` over a grid, and returns the outputs.

    The grid is (images, rows) if nothing else is said, rows one after another. The kernel gets references in the
    structure of what is given here: an input or output that is None is None to it, and `scratch`, a named tuple, is one
    of references. Its name says the activation, because tools distinguish kernels of the same shapes by their names.
    `flops` (2 per multiply-add) and `bytes_accessed` (with the padding of tiles; by default that of every array once)
    are what XLA counts for the kernel, into which it cannot look.
    """
    if bytes_accessed is None:
        bytes_accessed = sum(hbm_bytes(array.shape, array.dtype) for array in jax.tree.leaves((inputs, outputs)))
    return pl.pallas_call(
        functools.partial(kernel, activation=activation),
        out_shape=outputs,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=(jax.tree.map(lambda array: pltpu.VMEM(array.shape, array.dtype), scratch),),
        interpret=interpret,
        name=name if activation is None else f"{name}_{activation}",
        compiler_params=pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=VMEM_BYTES),
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=bytes_accessed, transcendentals=0),
    )(*inputs)


def zero_at_first_rows(*results) -> None:
    """Sets results to zero, with the first block of rows, that are summed over all of them."""

    @pl.when(pl.program_id(1) == 0)
    def _():
        for result in results:
            if result is not None:
                result[...] = jnp.zeros_like(result)
