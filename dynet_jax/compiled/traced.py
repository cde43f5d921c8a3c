"""Finds the Pallas kernels of a program while JAX traces it, without the help of the code that calls them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl


class TracedKernel(NamedTuple):
    """A kernel that has been traced; `program(*arrays)` calls it again, alone."""

    name: str | None
    program: Callable
    arrays: list[jax.ShapeDtypeStruct]
    outputs: list[jax.ShapeDtypeStruct]
    options: dict[str, Any]  # the keyword arguments of `pallas_call`


@contextlib.contextmanager
def traced_kernels() -> Iterator[list[TracedKernel]]:
    """Yields a list to which every kernel is added that is traced inside, by a call of `pl.pallas_call`.

    A function that `jax.jit` has traced before is not traced again, and its kernels are not found.
    """
    found, pallas_call = [], pl.pallas_call

    def noting(kernel, out_shape, **options):
        def call(*arrays):
            found.append(_traced(pallas_call, kernel, out_shape, options, arrays))
            return pallas_call(kernel, out_shape, **options)(*arrays)

        return call

    pl.pallas_call = noting
    try:
        yield found
    finally:
        pl.pallas_call = pallas_call


def _traced(pallas_call, kernel, out_shape, options, arrays) -> TracedKernel:
    leaves, structure = jax.tree.flatten(arrays)
    out_shape = jax.tree.map(_shape, out_shape)

    def program(*leaves):
        return pallas_call(kernel, out_shape, **options)(*structure.unflatten(leaves))

    return TracedKernel(options.get("name"), program, list(map(_shape, leaves)), jax.tree.leaves(out_shape), options)


def _shape(array) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype alone: a kernel that is called outside `shard_map` varies over no devices."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
