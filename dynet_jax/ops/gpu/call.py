"""What all kernels for GPUs tell Pallas alike, and how they address maps.

A kernel has references to whole arrays in the card's memory, and one block of threads works on what its place in the
grid says. Blocks are made of powers of two, as Triton wants them; what lies outside of an array is masked.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from dynet_jax.ops.pallas import like


def call(
    kernel: Callable,
    name: str,
    inputs: tuple[Any, ...],
    outputs: tuple[jax.ShapeDtypeStruct | None, ...],
    *,
    grid: tuple[int, ...],
    activation: str | None,
    flops: int,
    interpret: bool,
    warps: int = 4,
) -> tuple[Any, ...]:
    """Runs `kernel(*inputs, *outputs, activation=activation)` over a grid, and returns the outputs.

    An input or output that is None is None to the kernel, too. `flops` are 2 per multiply-add of the convolution
    itself, without what the matrix units multiply by zero.
    """
    moved = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves((inputs, outputs)))
    return pl.pallas_call(
        functools.partial(kernel, activation=activation),
        out_shape=outputs,
        grid=grid,
        interpret=interpret,
        name=name if activation is None else f"{name}_{activation}",
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=moved, transcendentals=0),
    )(*inputs)


def sums_of_blocks(x: jax.Array, blocks: int, channels: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of two sums for each image, block of positions and channel, which `added` adds up."""
    return like(x, (x.shape[0], blocks, 2, channels), jnp.float32)


def added(sums: jax.Array | None) -> jax.Array | None:
    """Returns [2, batch, channels] of the sums of all blocks; None of None."""
    return None if sums is None else jnp.swapaxes(sums.sum(1), 0, 1)


def load(ref, *indices, mask) -> jax.Array:
    """Returns elements of an array, 0 where the mask is not set."""
    return plgpu.load(ref.at[indices], mask=mask, other=0)


def store(ref, *indices, value: jax.Array, mask) -> None:
    """Writes elements in the array's type where the mask is set."""
    plgpu.store(ref.at[indices], value.astype(ref.dtype), mask=mask)


def dot(a: jax.Array, b: jax.Array, *, transposed: bool = False) -> jax.Array:
    """Returns a @ b in float32, or a.T @ b. Matrix units round float32, as they do in XLA's products by default."""
    return pl.dot(a, b, trans_a=transposed)


def lanes(first, size: int, limit: int) -> tuple[jax.Array, jax.Array]:
    """Returns the numbers from `first` on, and which of them are below the limit."""
    numbers = first + jnp.arange(size, dtype=jnp.int32)
    return numbers, numbers < limit
