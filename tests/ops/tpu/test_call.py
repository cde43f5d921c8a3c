"""What kernels tell of themselves."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from dynet_jax.compiled.traced import TracedKernel, traced_kernels
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.tpu.feature_map import DeferredMap
from dynet_jax.ops.tpu.tiles import hbm_bytes

# Multiply-adds of a convolution: positions out x kernel's entries, for every image.
LAYERS = {
    "dense_conv": ((2, 8, 8, 6), (4, 3, 3, 6, 10), {"strides": 2}, 2 * 16 * 9 * 6 * 10),
    "grouped_conv": ((2, 8, 8, 12), (4, 3, 3, 6, 12), {"feature_group_count": 2}, 2 * 64 * 9 * 6 * 12),
    "pointwise_conv": ((64, 3, 5, 6), (4, 1, 1, 6, 10), {}, 64 * 15 * 6 * 10),
}


def traced(x_shape, bank_shape, options, dtype=jnp.float32, normalizing=False) -> list[TracedKernel]:
    """The kernels of a layer and of its gradient; `normalizing`: that also normalise, and sum."""
    shapes = x_shape, bank_shape, (x_shape[0], bank_shape[0], bank_shape[-1])
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    affine = jax.ShapeDtypeStruct((x_shape[0], x_shape[-1]), jnp.float32)

    def loss(x, bank, coefficients):
        return sum(jnp.sum(part) for part in jax.tree.leaves(dynamic_conv(x, bank, coefficients, **options)))

    if normalizing:
        arrays[0] = DeferredMap(arrays[0], affine, affine, "relu")
    with tracing_for("tpu", "TPU v5 lite"), traced_kernels() as kernels:
        jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    return kernels


def declared(kernel: TracedKernel):
    return kernel.options["cost_estimate"]


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_say_how_much_they_compute(name):
    x_shape, bank_shape, options, products = LAYERS[name]
    flops = {kernel.name: declared(kernel).flops for kernel in traced(x_shape, bank_shape, options)}
    assert flops == {name: 2 * products, f"{name}_gradients": 4 * products}


def moved(kernel: TracedKernel) -> int:
    """Bytes of all blocks that the grid asks for, each as often as it is another one than in the step before."""
    options, total = kernel.options, 0
    specs = jax.tree.leaves((options["in_specs"], options["out_specs"]))
    for spec, array in zip(specs, [*kernel.arrays, *kernel.outputs]):
        steps = itertools.product(*map(range, options["grid"]))
        places = [tuple(map(int, spec.index_map(*step))) for step in steps]
        changes = sum(place != before for place, before in zip(places, [None, *places]))
        total += changes * hbm_bytes(spec.block_shape, array.dtype)
    return total


# name: x, bank, options
REAL_LAYERS = {
    "dense": ((64, 14, 14, 128), (6, 3, 3, 128, 128), {}),
    "dense, stride 2": ((64, 56, 56, 32), (6, 3, 3, 32, 64), {"strides": 2}),
    "pointwise": ((256, 56, 56, 24), (6, 1, 1, 24, 24), {}),
    "grouped, one block of rows": ((64, 14, 14, 96), (6, 3, 3, 6, 96), {"feature_group_count": 16}),
    "grouped": ((256, 56, 56, 24), (6, 3, 3, 6, 24), {"feature_group_count": 4}),
    "grouped, strips": ((16, 112, 112, 24), (6, 3, 3, 6, 24), {"feature_group_count": 4, "strides": 2}),
    "grouped, depthwise": ((64, 28, 28, 32), (6, 3, 3, 1, 32), {"feature_group_count": 32}),
}


@pytest.mark.parametrize("normalizing", [False, True])
@pytest.mark.parametrize("name", REAL_LAYERS)
def test_kernels_say_how_many_bytes_they_move(name, normalizing):
    kernels = traced(*REAL_LAYERS[name], dtype=jnp.bfloat16, normalizing=normalizing)
    assert len({kernel.name for kernel in kernels}) == 2
    for kernel in kernels:
        assert declared(kernel).bytes_accessed == moved(kernel)


def test_nothing_is_noted_outside():
    original = pl.pallas_call
    with pytest.raises(KeyError), traced_kernels() as kernels:
        raise KeyError
    with tracing_for("tpu"):
        x, bank, coefficients = jnp.zeros((2, 4, 4, 6)), jnp.zeros((4, 3, 3, 6, 10)), jnp.zeros((2, 4, 10))
        jax.make_jaxpr(dynamic_conv)(x, bank, coefficients)
    assert kernels == []
    assert pl.pallas_call is original
