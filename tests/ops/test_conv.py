"""`conv` against XLA's convolution, `conv_per_example` against a numpy loop, and what both refuse."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynet_jax.ops import conv, conv_per_example
from tests import reference


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


# name: (shape of x, shape of the kernel, groups)
KERNELS = {
    "pointwise": ((3, 9, 8, 12), (1, 1, 12, 10), 1),
    "pointwise_grouped": ((3, 9, 8, 12), (1, 1, 6, 4), 2),
    "dense": ((3, 9, 8, 6), (3, 3, 6, 10), 1),
    "dense_few_positions": ((3, 2, 2, 6), (3, 3, 6, 10), 1),
    "grouped": ((3, 9, 8, 12), (3, 3, 6, 8), 2),
    "grouped_even": ((3, 9, 8, 12), (2, 4, 2, 12), 6),
    "depthwise": ((3, 9, 8, 12), (3, 3, 1, 12), 12),
    "depthwise_multiplier": ((3, 9, 8, 6), (3, 3, 1, 18), 6),
    "1d_grouped": ((3, 9, 12), (3, 6, 12), 2),
    "3d_depthwise": ((2, 5, 4, 5, 6), (3, 2, 3, 1, 6), 6),
}
GEOMETRIES = {
    "plain": {},
    "stride2_dilated": {"strides": 2, "kernel_dilation": 2},
    "stride3_padding2": {"strides": 3, "padding": 2},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize(("x_shape", "kernel_shape", "groups"), KERNELS.values(), ids=KERNELS)
def test_conv_equals_xla(x_shape, kernel_shape, groups, geometry):
    spatial = "DHW"[5 - len(x_shape) :]
    rank = len(spatial)
    padding = geometry.get("padding", "SAME")

    def ours(x, kernel):
        return conv(x, kernel, **geometry, feature_group_count=groups)

    def xla(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(geometry.get("strides", 1),) * rank,
            padding=padding if isinstance(padding, str) else [(padding, padding)] * rank,
            rhs_dilation=(geometry.get("kernel_dilation", 1),) * rank,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            feature_group_count=groups,
            precision="highest",
        )

    @reference.jit
    def both(*operands):
        def weigh(function):
            # Sines make the cotangents all different.
            return jax.value_and_grad(lambda *a: (jnp.sum(jnp.sin(y := function(*a))), y), (0, 1), has_aux=True)

        return weigh(ours)(*operands), weigh(xla)(*operands)

    a, b = both(normal(*x_shape), normal(*kernel_shape, seed=1))
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 12])
def test_per_example_equals_numpy(groups):
    """The geometries are swept in test_dynamic_conv.py, whose kernels end here."""
    options = {"strides": 2, "padding": ((0, 2), (1, 0)), "feature_group_count": groups}
    reference.assert_same_function(
        lambda *a: conv_per_example(*a, **options),
        lambda *a: reference.conv_per_example(*a, **options),
        normal(2, 6, 7, 12),
        normal(2, 3, 3, 12 // groups, 12, seed=1),
    )


@pytest.mark.parametrize("groups", [1, 2, 12])
@pytest.mark.parametrize("shared", [False, True])
def test_bfloat16_is_summed_in_float32(groups, shared):
    """One large product and many of 1, each too small to move a bfloat16 sum."""
    kernels = np.ones((2, 3, 3, 12 // groups, 12))
    kernels[:, 0, 0, 0] = 1024
    expected = reference.conv_per_example(np.ones((2, 4, 4, 12)), kernels, padding="VALID", feature_group_count=groups)
    operands = jnp.ones((2, 4, 4, 12), jnp.bfloat16), jnp.asarray(kernels, jnp.bfloat16)
    if shared:
        y = conv(operands[0], operands[1][0], padding="VALID", feature_group_count=groups)
    else:
        y = conv_per_example(*operands, padding="VALID", feature_group_count=groups)
    assert y.dtype == jnp.bfloat16
    chex.assert_trees_all_equal(y, jnp.asarray(expected, jnp.bfloat16))
    assert float(y[0, 0, 0, 0]) > 1024


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "groups", "message"),
    [
        ((2, 5, 5, 4), (3, 4, 6), 1, "2 spatial dimensions, the kernel of shape .* has 1"),
        ((2, 5, 5, 4), (3, 3, 3, 6), 1, "x has 4, the kernel expects 3 x feature_group_count=1"),
        ((2, 5, 5, 4), (3, 3, 2, 5), 2, "gives 5, which must be a multiple of feature_group_count"),
        ((2, 1, 5, 4), (5, 3, 4, 6), 1, "too small for a window"),
    ],
)
def test_misfits_are_named(x_shape, kernel_shape, groups, message):
    x, kernel = jnp.ones(x_shape), jnp.ones(kernel_shape)
    with pytest.raises(ValueError, match=message):
        conv(x, kernel, feature_group_count=groups, padding="VALID")
    with pytest.raises(ValueError, match=message):
        conv_per_example(x, jnp.stack([kernel, kernel]), feature_group_count=groups, padding="VALID")


@pytest.mark.usefixtures("without_shape_checks")
def test_every_example_needs_a_kernel():
    with pytest.raises(ValueError, match="x has 2 examples but kernels has 3"):
        conv_per_example(jnp.ones((2, 5, 5, 4)), jnp.ones((3, 3, 3, 4, 6)))


@pytest.mark.parametrize(("size", "by_xla"), [(2, False), (3, True)])
def test_small_dense_maps_are_matrix_products_on_a_cpu(size, by_xla):
    program = str(jax.make_jaxpr(conv)(normal(2, size, size, 4), normal(3, 3, 4, 5)))
    assert ("conv_general_dilated" in program) == by_xla
