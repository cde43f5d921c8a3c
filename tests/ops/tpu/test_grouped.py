"""The TPU's kernels for a convolution with a kernel per image: interpreted, against the forms that any machine runs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.tpu.dynamic import grouped_dynamic_conv
from dynet_jax.ops.tpu.grouped_plan import GROUPED_BYTES, make_grouped_plan
from dynet_jax.ops.tpu.tiles import hbm_bytes, vmem_bytes
from dynet_jax.ops.window import make_window
from tests import reference
from tests.ops.tpu.compiled import moved, needs_libtpu


def arrays(spatial, channels, members, batch=2, kernel_size=(3, 3), group_size=4, shared=False, dtype=jnp.float32):
    """Random x, kernels, coefficients, and the number of groups."""
    rng = np.random.default_rng(0)
    shapes = (
        (batch, *spatial, channels),
        (group_size, *kernel_size, members, channels),
        (batch, group_size, 1 if shared else channels),
    )
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes], channels // members


def plan_of(x, kernels, groups, strides=1, padding="SAME", **changes):
    window = make_window(x.shape, kernels.shape[1:-2], strides, padding, 1)
    plan = make_grouped_plan(x, kernels, groups, window, interpret=True)
    return plan._replace(**changes)


# name: (arguments of `arrays`, arguments of `plan_of`)
CASES = {
    "six_members": (((4, 4), 12, 6), {}),
    "depthwise": (((4, 4), 5, 1), {}),
    "two_members": (((3, 5), 8, 2), {}),
    "stride": (((6, 4), 12, 6), {"strides": 2}),
    "stride_torch": (((6, 4), 12, 3), {"strides": 2, "padding": "TORCH"}),
    "blocks_of_rows": (((6, 3), 6, 3), {"rows": 2}),
    "blocks_of_rows_stride": (((8, 4), 6, 3), {"rows": 1, "strides": 2}),
    "blocks_of_images": (((3, 3), 6, 3, 4), {"images": 2}),
    "images_in_the_lanes": (((4, 3), 6, 3, 4), {"channel_axis": 0, "images": 2, "rows": 2}),
    "strips": (((8, 3), 6, 3, 3), {"channel_axis": 0, "images": 12, "rows": 2, "strips": 4}),
    "strips_of_blocks": (((8, 3), 6, 3, 3), {"channel_axis": 0, "images": 6, "rows": 2, "strips": 2}),
    "strips_of_one_row": (((4, 3), 6, 3, 2), {"channel_axis": 0, "images": 8, "rows": 1, "strips": 4}),
    "strips_even_window": (
        ((8, 3), 6, 3, 2, (2, 2)),
        {"channel_axis": 0, "images": 4, "rows": 2, "strips": 2, "padding": ((1, 0), (0, 1))},
    ),
    "strips_row_window": (((8, 3), 6, 3, 2, (1, 3)), {"channel_axis": 0, "images": 4, "rows": 2, "strips": 2}),
    "strips_stride_torch": (
        ((8, 4), 6, 2, 3),
        {"channel_axis": 0, "images": 6, "rows": 1, "strips": 2, "strides": 2, "padding": "TORCH"},
    ),
    "strips_shared_coefficients": (
        ((8, 3), 6, 3, 2, (3, 3), 4, True),
        {"channel_axis": 0, "images": 4, "rows": 2, "strips": 2},
    ),
    "strips_stride": (((8, 4), 6, 2, 3), {"channel_axis": 0, "images": 6, "rows": 1, "strips": 2, "strides": 2}),
    "images_in_the_lanes_stride": (((4, 6), 6, 2, 3), {"channel_axis": 0, "rows": 1, "strides": 2}),
    "row_window": (((4, 4), 6, 3, 2, (1, 3)), {}),
    "even_window": (((4, 4), 6, 3, 2, (2, 2)), {}),
    "shared_coefficients": (((3, 3), 6, 3, 2, (3, 3), 4, True), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    shapes, options = CASES[name]
    (x, kernels, coefficients), groups = arrays(*shapes)
    geometry = {key: options[key] for key in ("strides", "padding") if key in options}
    plan = plan_of(x, kernels, groups, **options)
    y = jax.jit(lambda *a: grouped_dynamic_conv(*a, plan))(x, kernels, coefficients)
    expected = reference.dynamic_conv(x, kernels, coefficients, feature_group_count=groups, **geometry)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    weights = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)

    def gradients(form):
        loss = lambda *a: jnp.sum(form(*a) * weights)  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, kernels, coefficients)

    plain = lambda *a: dynamic_conv(*a, feature_group_count=groups, fusion="kernel", **geometry)  # noqa: E731
    actual = gradients(lambda *a: grouped_dynamic_conv(*a, plan))
    chex.assert_trees_all_close(actual, gradients(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_precision_is_summed_in_float32():
    """54 products of about 1, in bfloat16 sums, would be off by several per cent."""
    (x, kernels, coefficients), groups = arrays((4, 4), 12, 6)
    low = [array.astype(jnp.bfloat16) for array in (x, kernels, coefficients)]
    plan = plan_of(x, kernels, groups)
    y = grouped_dynamic_conv(*low, plan)
    assert y.dtype == jnp.bfloat16
    exact = reference.dynamic_conv(*(array.astype(jnp.float32) for array in low), feature_group_count=groups)
    assert np.abs(y.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()
    gradient = jax.grad(lambda x: grouped_dynamic_conv(x, *low[1:], plan).astype(jnp.float32).sum())(low[0])
    assert gradient.dtype == jnp.bfloat16


def plan_for_tpus(shape, c_out, groups, kernel_size=(3, 3), strides=1, padding="SAME", dilation=1, dtype=jnp.float32):
    window = make_window(shape, kernel_size, strides, padding, dilation)
    x, kernels = (jax.ShapeDtypeStruct(s, dtype) for s in (shape, (6, *kernel_size, shape[-1] // groups, c_out)))
    return make_grouped_plan(x, kernels, groups, window)


@pytest.mark.parametrize(
    ("shape", "c_out", "groups", "geometry"),
    [
        ((2, 8, 8, 12), 12, 1, {}),  # dense: the matrix unit's
        ((2, 8, 8, 12), 24, 2, {}),  # another number of channels
        ((2, 8, 8, 12), 12, 2, {"kernel_size": (1, 1)}),
        ((2, 8, 8, 12), 12, 2, {"kernel_size": (5, 5)}),
        ((2, 8, 8, 12), 12, 2, {"dilation": 2}),
        ((2, 8, 8, 12), 12, 2, {"padding": "VALID"}),
        ((2, 8, 8, 12), 12, 2, {"strides": (2, 1)}),
        ((2, 7, 8, 12), 12, 2, {"strides": 2}),
        ((2, 9, 9, 12), 12, 2, {"strides": 3}),
        ((2, 8, 12), 12, 2, {"kernel_size": (3,)}),
        ((1001, 56, 56, 96), 96, 16, {}),  # no part of the images is a block, and all of them are too large for one
    ],
)
def test_other_layers_are_left_to_the_plain_forms(shape, c_out, groups, geometry):
    assert plan_for_tpus(shape, c_out, groups, **geometry) is None


@pytest.mark.parametrize(
    ("shape", "channel_axis", "images", "strips"),
    [
        ((64, 14, 14, 96), 1, 16, 1),
        ((64, 56, 56, 24), 0, 128, 2),
        ((256, 56, 56, 24), 0, 128, 1),
        ((32, 56, 56, 24), 0, 128, 4),
        ((24, 56, 56, 24), 0, 96, 4),
        ((8, 56, 56, 24), 0, 64, 8),  # 16 strips do not divide the rows
        ((8, 28, 28, 24), 1, 8, 1),  # 4 do, and would leave three quarters of the lanes empty
        ((96, 56, 56, 24), 0, 96, 1),
        ((192, 56, 56, 24), 1, 16, 1),
        ((12, 14, 14, 96), 1, 12, 1),  # a block is a multiple of a tile, or everything
    ],
)
def test_images_fill_the_lanes_where_there_are_few_channels(shape, channel_axis, images, strips):
    plan = plan_for_tpus(shape, shape[-1], shape[-1] // 6)
    assert (plan.channel_axis, plan.images, plan.strips) == (channel_axis, images, strips)
    assert strips * shape[0] % plan.images == 0
    assert shape[1] % (strips * plan.rows) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("size", "channels", "strides"), [(112, 18, 1), (112, 48, 2), (160, 24, 1), (7, 648, 1)])
def test_blocks_fit_in_vmem(size, channels, strides, dtype):
    """As large as possible: one with twice the rows would not fit, or is all of the image."""
    shape = (64, size, size, channels)
    plan = plan_for_tpus(shape, channels, channels // 6, strides=strides, dtype=dtype)
    tile = (plan.images, channels) if plan.channel_axis == 1 else (channels, plan.images)
    operands = [jax.ShapeDtypeStruct((*major, *tile), dtype) for major in ((size, size), (9 * 6,))]
    assert plan.bytes(*operands) <= GROUPED_BYTES
    all_rows = size // strides // plan.strips
    if plan.rows < all_rows:
        larger = min(rows for rows in range(plan.rows + 1, size + 1) if all_rows % rows == 0)
        assert plan._replace(rows=larger).bytes(*operands) > GROUPED_BYTES


def test_padding_of_tiles():
    assert vmem_bytes((3, 10, 96), jnp.bfloat16) == 3 * 16 * 128 * 2
    assert vmem_bytes((3, 10, 130), jnp.float32) == 3 * 16 * 256 * 4
    assert hbm_bytes((3, 18, 96), jnp.bfloat16) == 3 * 24 * 128 * 2


def test_it_is_chosen_for_tpus_and_for_many_images(monkeypatch):
    (x, kernels, coefficients), groups = arrays((4, 4), 12, 6)

    def program(x, coefficients, backend="tpu", kind="TPU v5 lite", **options):
        with tracing_for(backend, kind):
            conv = lambda *a: dynamic_conv(*a, feature_group_count=groups, **options)  # noqa: E731
            return str(jax.make_jaxpr(conv)(x, kernels, coefficients))

    assert "grouped_conv" in program(x, coefficients)
    assert "grouped_conv" in program(x, coefficients, fusion="kernel")
    assert "grouped_conv" not in program(x, coefficients, fusion="feature")
    assert "grouped_conv" not in program(x[:1], coefficients[:1])
    assert "grouped_conv" not in program(x, coefficients, backend="cpu")
    assert "grouped_conv" not in program(x, coefficients, backend="gpu")
    assert "grouped_conv" not in program(x, coefficients, kind="TPU v4")  # whose VMEM is a quarter of others'
    exact = program(x, coefficients, precision="highest")  # what fuses the kernels, outside
    assert "grouped_conv" in exact
    assert "HIGHEST" in exact
    monkeypatch.setenv("DYNET_JAX_PALLAS", "0")
    assert "grouped_conv" not in program(x, coefficients)


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("layer", [(14, 96, 6, 1, 64), (14, 162, 6, 2, 64), (56, 24, 6, 1, 64), (28, 32, 1, 1, 256)])
def test_it_compiles_for_tpus_and_moves_less(layer, topology):
    size, channels, members, strides, batch = layer
    kernel, feature = moved((size, channels, members, channels, strides, batch), topology)
    assert kernel < 0.5 * feature


@needs_libtpu
@pytest.mark.parametrize(
    ("size", "strides", "batch"),
    [
        (14, 1, 8),
        (14, 1, 12),
        (14, 1, 66),
        (14, 1, 192),
        (14, 1, 1000),
        (56, 1, 8),
        (56, 1, 24),
        (112, 2, 8),
        (112, 2, 48),
    ],
)
def test_it_compiles_for_all_sorts_of_batches(size, strides, batch):
    """With 8, 24 and 48 images in strips that fill 64 or 96 lanes."""
    assert min(moved((size, 24, 6, 24, strides, batch), "v5e:2x2")) > 0
