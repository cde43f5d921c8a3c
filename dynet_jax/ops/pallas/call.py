"""What all kernels of this package tell Pallas and XLA alike."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dynet_jax.ops.pallas.plan import hbm_bytes

VMEM_BYTES = 64 * 2**20  # that a call may take of the fast memory of a core: 128 MiB, 64 in v5p


def call(
    kernel: Callable,
    name: str,
    arrays: Sequence[jax.Array | None],
    outputs: Sequence[jax.ShapeDtypeStruct | None],
    *,
    grid: tuple[int, ...],
    in_specs: Sequence[pl.BlockSpec | None],
    out_specs: Sequence[pl.BlockSpec | None],
    scratch_shapes: Sequence[jax.ShapeDtypeStruct],
    activation: str | None,
    flops: int,
    bytes_accessed: int | None = None,
    interpret: bool,
    dimension_semantics: tuple[str, ...] = ("parallel", "arbitrary"),
) -> list[jax.Array | None]:
    """Run a kernel over a grid, of (images, rows) if nothing else is said, rows one after another.

    Arrays and outputs that are None are None to the kernel too, and among the results. The kernel is told the
    `activation` of what it reads, and its name says it: kernels of the same shapes are told apart by their names.
    `flops` (2 per multiply-add) and `bytes_accessed` (with the padding of tiles; every array once, if it is not said)
    are what XLA counts for it: it cannot look inside.
    """
    name = name if activation is None else f"{name}_{activation}"
    present = [array is not None for array in (*arrays, *outputs)]
    arrays, in_specs, out_specs = ([v for v in values if v is not None] for values in (arrays, in_specs, out_specs))
    wanted, outputs = [output is not None for output in outputs], [v for v in outputs if v is not None]
    if bytes_accessed is None:
        bytes_accessed = sum(hbm_bytes(array.shape, array.dtype) for array in (*arrays, *outputs))
    program = functools.partial(
        pl.pallas_call,
        functools.partial(_with_absent, kernel, present, activation),
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=[pltpu.VMEM(scratch.shape, scratch.dtype) for scratch in scratch_shapes],
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=VMEM_BYTES),
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=bytes_accessed, transcendentals=0),
    )
    if (recorded := _recorded.get()) is not None:
        recorded.append(Kernel(name, program, _shapes(arrays), _shapes(outputs)))
    results = iter(program(out_shape=outputs)(*arrays))
    return [next(results) if there else None for there in wanted]


def _with_absent(kernel, present, activation, *refs):
    refs = iter(refs)
    return kernel(*(next(refs) if there else None for there in present), *refs, activation=activation)


class Kernel(NamedTuple):
    """A call that has been traced: `program(out_shape=outputs)(*arrays)`."""

    name: str
    program: Callable
    arrays: list[jax.ShapeDtypeStruct]
    outputs: list[jax.ShapeDtypeStruct]


_recorded: contextvars.ContextVar[list[Kernel] | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[Kernel]]:
    """All calls that are traced inside, for tools that look at a kernel alone."""
    recorded = []
    token = _recorded.set(recorded)
    try:
        yield recorded
    finally:
        _recorded.reset(token)


def _shapes(arrays):
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def like(x: jax.Array, shape: tuple[int, ...], dtype=None) -> jax.ShapeDtypeStruct:
    """A result says, inside `shard_map`, over which devices it varies: as x does. How it says so changes with JAX."""
    return jax.eval_shape(lambda x: jnp.broadcast_to(x.ravel()[0], shape).astype(dtype or x.dtype), x)


def vary_alike(*arrays: jax.Array | None) -> list[jax.Array | None]:
    """The arrays as ones that all differ from device to device, inside `shard_map`, if one does.

    The gradient of one that did not differ is then summed over devices, as it has to be.
    """
    zeros = [jnp.zeros_like(array.ravel()[0], dtype=jnp.float32) for array in arrays if array is not None]
    return [None if array is None else array + sum(zeros).astype(array.dtype) for array in arrays]
