"""What all kernels of this package tell Pallas and XLA alike."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

VMEM_BYTES = 64 * 2**20  # that a call may take of the fast memory of a core: 128 MiB, 64 in v5p


def call(
    kernel: Callable,
    name: str,
    arrays: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    grid: tuple[int, int],
    in_specs: Sequence[pl.BlockSpec],
    out_specs: Sequence[pl.BlockSpec],
    scratch_shapes: Sequence[tuple[int, ...]],
    bytes_accessed: int,
    interpret: bool,
) -> list[jax.Array]:
    """Run a kernel over a grid of (images, rows), rows one after another; scratch is float32.

    `bytes_accessed` is what XLA counts for it, with the padding of tiles: it cannot look inside.
    """
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=outputs,
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch_shapes],
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(flops=0, bytes_accessed=bytes_accessed, transcendentals=0),
    )(*arrays)


def like(x: jax.Array, shape: tuple[int, ...], dtype=None) -> jax.ShapeDtypeStruct:
    """A result says, inside `shard_map`, over which devices it varies: as x does. How it says so changes with JAX."""
    return jax.eval_shape(lambda x: jnp.broadcast_to(x.ravel()[0], shape).astype(dtype or x.dtype), x)
