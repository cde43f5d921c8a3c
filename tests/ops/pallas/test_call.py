"""What kernels tell of themselves."""

import jax
import jax.numpy as jnp
import pytest

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.pallas.call import recording

# Multiply-adds of a convolution: positions out x kernel's entries, for every image.
LAYERS = {
    "dense_conv": ((2, 8, 8, 6), (4, 3, 3, 6, 10), {"strides": 2}, 2 * 16 * 9 * 6 * 10),
    "grouped_conv": ((2, 8, 8, 12), (4, 3, 3, 6, 12), {"feature_group_count": 2}, 2 * 64 * 9 * 6 * 12),
    "pointwise_conv": ((64, 3, 5, 6), (4, 1, 1, 6, 10), {}, 64 * 15 * 6 * 10),
}


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_say_how_much_they_compute(name):
    x_shape, bank_shape, options, products = LAYERS[name]
    shapes = x_shape, bank_shape, (x_shape[0], 4, bank_shape[-1])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    loss = lambda *a: jnp.sum(dynamic_conv(*a, **options))  # noqa: E731
    with tracing_for("tpu"), recording() as kernels:
        jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    flops = {kernel.name: kernel.program.keywords["cost_estimate"].flops for kernel in kernels}
    assert flops == {name: 2 * products, f"{name}_gradients": 4 * products}


def test_nothing_is_recorded_outside():
    with recording() as kernels:
        pass
    with tracing_for("tpu"):
        x, bank, coefficients = jnp.zeros((2, 4, 4, 6)), jnp.zeros((4, 3, 3, 6, 10)), jnp.zeros((2, 4, 10))
        jax.make_jaxpr(dynamic_conv)(x, bank, coefficients)
    assert kernels == []
