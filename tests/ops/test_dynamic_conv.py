"""Dynamic convolution, by kernels and by features, against a numpy loop: values and gradients."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dynet_jax.ops import choose_fusion, dynamic_conv, fuse_kernels
from tests import reference

# The package exports the function of the same name, which hides its module from `import`.
conv_module = importlib.import_module("dynet_jax.ops.conv")


def arrays(spatial, kernel_size, c_in=4, c_out=6, groups=1, batch=2, group_size=3, shared=False, dtype=jnp.float32):
    """Random x, kernels and coefficients."""
    rng = np.random.default_rng(0)
    shapes = (
        (batch, *spatial, c_in),
        (group_size, *kernel_size, c_in // groups, c_out),
        (batch, group_size, 1 if shared else c_out),
    )
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


# name: (spatial shape, kernel size, options of `arrays`, options of `dynamic_conv`)
CASES = {
    f"k{kernel}_stride{strides}": ((7, 6), (kernel, kernel), {}, {"strides": strides})
    for kernel in (1, 2, 3, 5)
    for strides in (1, 2, 3)
}
GROUPS = {
    "grouped": {"c_in": 12, "c_out": 12, "groups": 2},
    "grouped_widening": {"c_in": 12, "c_out": 18, "groups": 6},
    "depthwise": {"c_in": 6, "c_out": 6, "groups": 6},
    "depthwise_multiplier": {"c_in": 6, "c_out": 18, "groups": 6},
}
for name, channels in GROUPS.items():
    CASES[f"{name}_k1"] = ((4, 5), (1, 1), channels, {})
    CASES[f"{name}_k3"] = ((6, 5), (3, 3), channels, {})
    CASES[f"{name}_k2_stride3_dilated"] = ((9, 8), (2, 2), channels, {"strides": 3, "kernel_dilation": 2})
PADDINGS = {
    "same_lower": "SAME_LOWER",
    "torch": "TORCH",
    "valid": "VALID",
    "int": 2,
    "one_per_dimension": (2, 0),
    "pairs": ((0, 2), (3, 1)),
    "circular": "CIRCULAR",
    "reflect": "REFLECT",
}
for name, padding in PADDINGS.items():
    geometry = {"strides": (2, 1), "kernel_dilation": (1, 3), "padding": padding}
    CASES[name] = ((6, 7), (3, 2), {}, geometry)
CASES |= {
    "1d": ((9,), (3,), {}, {"strides": 2}),
    "1d_grouped": ((9,), (5,), GROUPS["grouped"], {"kernel_dilation": 2}),
    "1d_causal": ((9,), (3,), {}, {"padding": "CAUSAL"}),
    "1d_causal_dilated_stride2": ((10,), (2,), {}, {"padding": "CAUSAL", "kernel_dilation": 3, "strides": 2}),
    "3d": ((4, 5, 3), (2, 3, 1), {}, {"strides": (1, 2, 1)}),
    "3d_grouped": ((3, 4, 3), (3, 3, 3), GROUPS["grouped"], {"strides": 2}),
    "3d_depthwise": ((3, 4, 3), (3, 3, 3), GROUPS["depthwise"], {}),
    "batch1": ((5, 5), (3, 3), {"batch": 1}, {}),
    "batch1_depthwise": ((5, 5), (3, 3), {"batch": 1, **GROUPS["depthwise"]}, {}),
    "group_size1": ((5, 5), (3, 3), {"group_size": 1}, {}),
    "shared_coefficients": ((5, 5), (3, 3), {"shared": True}, {}),
    "shared_coefficients_grouped": ((5, 5), (3, 3), {"shared": True, **GROUPS["grouped"]}, {}),
    "one_output_channel": ((5, 5), (3, 3), {"c_out": 1}, {}),
    "one_input_channel": ((5, 5), (3, 3), {"c_in": 1}, {}),
    "few_positions": ((4, 3), (3, 3), {}, {"strides": 2}),
    "few_positions_shared": ((2, 2), (3, 3), {"shared": True}, {}),
    "few_positions_grouped": ((2, 2), (3, 3), GROUPS["grouped_widening"], {}),
    "few_positions_pointwise": ((3, 3), (1, 1), {}, {"strides": 2}),
    "one_position": ((2, 2), (3, 3), {}, {"strides": 2}),
}


def assert_equals_numpy(case, fusion, dtype=jnp.float32, **tolerance):
    spatial, kernel_size, channels, options = case
    options = {**options, "feature_group_count": channels.get("groups", 1)}
    reference.assert_same_function(
        lambda *a: dynamic_conv(*a, fusion=fusion, **options),
        lambda *a: reference.dynamic_conv(*a, **options),
        *arrays(spatial, kernel_size, **channels, dtype=dtype),
        **tolerance,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["kernel", "feature"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_numpy(case, fusion):
    assert_equals_numpy(case, fusion)


@pytest.mark.parametrize("fusion", ["kernel", "feature"])
@pytest.mark.parametrize("name", ["k1_stride1", "k3_stride2", "grouped_k3", "depthwise_k3", "shared_coefficients"])
def test_bfloat16_stays_within_rounding(name, fusion):
    assert_equals_numpy(CASES[name], fusion, jnp.bfloat16, tolerance=2e-2)


@pytest.mark.parametrize(
    "name", ["k1_stride1", "k3_stride2", "grouped_k2_stride3_dilated", "depthwise_k3", "1d_causal"]
)
def test_auto_equals_numpy_in_the_forms_of_an_accelerator(name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setenv("DYNET_JAX_PALLAS", "0")  # tested in tests/ops/tpu
    assert_equals_numpy(CASES[name], "auto")


@pytest.mark.parametrize(("batch", "examples_in_cache", "chunk"), [(6, 3.5, 3), (5, 2, 2), (2, 0.5, 1)])
@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("k3_stride2", "kernel"),
        ("grouped_k3", "kernel"),
        ("grouped_k3", "feature"),
        ("depthwise_multiplier_k3", "kernel"),
    ],
)
def test_chunks_for_the_cache_change_nothing(name, fusion, batch, examples_in_cache, chunk, monkeypatch):
    spatial, kernel_size, channels, options = CASES[name]
    channels, options = {**channels, "batch": batch}, {**options, "feature_group_count": channels.get("groups", 1)}
    x, kernels, coefficients = arrays(spatial, kernel_size, **channels)

    output = reference.dynamic_conv(x, kernels, coefficients, **options)
    patches_per_example = np.prod(output.shape[1:-1]) * np.prod(kernel_size) * x.shape[-1] * x.dtype.itemsize
    monkeypatch.setattr(conv_module, "CACHE_BYTES", int(examples_in_cache * patches_per_example))

    def function(*operands):
        return dynamic_conv(*operands, fusion=fusion, **options)

    assert f"length={batch // chunk}" in str(jax.make_jaxpr(function)(x, kernels, coefficients))
    reference.assert_same_function(function, lambda *a: reference.dynamic_conv(*a, **options), x, kernels, coefficients)


@pytest.mark.parametrize("shared", [False, True])
def test_fuse_kernels_is_the_weighted_sum(shared):
    _, kernels, coefficients = arrays((1, 1), (3, 2), batch=3, shared=shared)
    reference.assert_same_function(fuse_kernels, reference.fuse_kernels, kernels, coefficients)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["kernel", "feature"])
@pytest.mark.parametrize("name", ["k3_stride2", "grouped_k3", "shared_coefficients", "few_positions"])
def test_derivatives_of_any_order_and_direction(name, fusion):
    """The values and the derivatives of a sum over kernels are computed in different ways, so they could disagree."""
    spatial, kernel_size, channels, options = CASES[name]
    options = {**options, "feature_group_count": channels.get("groups", 1)}
    operands = arrays(spatial, kernel_size, **channels)
    check_grads(lambda *a: dynamic_conv(*a, fusion=fusion, **options), operands, order=2, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("kernels_shape", "batch", "backend", "expected"),
    [
        ((6, 3, 3, 6, 96), 64, "cpu", "kernel"),
        ((6, 3, 3, 6, 96), 64, "tpu", "feature"),
        ((6, 3, 3, 6, 96), 64, "gpu", "feature"),
        ((6, 3, 3, 6, 96), 1, "tpu", "kernel"),
        ((6, 1, 1, 96, 96), 64, "tpu", "kernel"),
        ((6, 1, 3, 96, 96), 64, "tpu", "feature"),
        ((6, 3, 3, 1, 96), 64, "tpu", "kernel"),
    ],
)
def test_rule_of_auto(kernels_shape, batch, backend, expected):
    assert choose_fusion(kernels_shape, batch=batch, backend=backend) == expected


@pytest.mark.parametrize(
    ("kernels_shape", "groups", "backend", "most"),
    [
        ((6, 1, 1, 96, 96), 1, "cpu", 4),
        ((6, 3, 3, 6, 96), 16, "cpu", 4),
        ((6, 3, 3, 96, 96), 1, "cpu", 16),
        ((6, 1, 1, 96, 96), 1, "tpu", 4),
        ((6, 1, 1, 96, 40), 1, "gpu", 15),
        ((12, 1, 1, 96, 96), 1, "gpu", 7),
        ((6, 3, 3, 1, 96), 96, "cpu", 0),
        ((6, 3, 3, 1, 96), 96, "gpu", 0),
    ],
)
def test_rule_of_auto_for_small_maps(kernels_shape, groups, backend, most):
    """Maps of up to `most` positions fuse features, larger ones kernels."""
    rule = functools.partial(choose_fusion, kernels_shape, backend=backend, feature_group_count=groups)
    chosen = {positions: rule(batch=64, positions=positions) for positions in (1, 4, 5, 7, 8, 15, 16, 17, 49)}
    assert chosen == {positions: "feature" if positions <= most else "kernel" for positions in chosen}
    assert rule(batch=1, positions=1) == "kernel"


@pytest.mark.parametrize(("size", "expected"), [(4, "feature"), (5, "kernel")])
def test_auto_counts_the_positions_of_the_result(size, expected):
    """Of a pointwise layer with stride 2: 2x2 of 4x4, 3x3 of 5x5."""
    operands = arrays((size, size), (1, 1))
    program = jax.jit(functools.partial(dynamic_conv, strides=2)).lower(*operands)
    assert f"dynamic_conv_{expected}_fusion" in program.as_text(debug_info=True)


GOOD = {"x": (2, 5, 5, 4), "kernels": (3, 3, 3, 4, 6), "coefficients": (2, 3, 6), "options": {}}
MISTAKES = {
    "unknown fusion": ({"options": {"fusion": "kernels"}}, "fusion must be one of 'auto', 'kernel', 'feature'"),
    "unknown padding": ({"options": {"padding": "same"}}, "padding 'same' is not one of 'SAME'"),
    "causal in 2-D": ({"options": {"padding": "CAUSAL"}}, "1-D only"),
    "padding for 1-D": ({"options": {"padding": (1,)}}, "padding must have 2 entries"),
    "padding of three": ({"options": {"padding": ((1, 1, 1), (1, 1, 1))}}, "padding must have 2 entries"),
    "strides for 3-D": ({"options": {"strides": (1, 1, 1)}}, "strides must be a positive int or 2 of them"),
    "no stride": ({"options": {"strides": 0}}, "strides must be a positive int"),
    "no dilation": ({"options": {"kernel_dilation": (1, 0)}}, "kernel_dilation must be a positive int"),
    "group_size": ({"coefficients": (2, 4, 6)}, r"coefficients must be \[batch, group_size=3, features=6\]"),
    "features": ({"coefficients": (2, 3, 4)}, r"not \(2, 3, 4\)"),
    "no batch axis": ({"coefficients": (3, 6)}, r"not \(3, 6\)"),
    "batch": ({"coefficients": (3, 3, 6)}, "x has 2 examples but coefficients has 3"),
    "rank": ({"x": (2, 5, 4)}, "x must be .batch, .spatial, channels"),
    "channels": ({"x": (2, 5, 5, 3)}, "channels do not fit: x has 3, the kernel expects 4"),
    "groups": (
        {"x": (2, 5, 5, 16), "options": {"feature_group_count": 4}},
        "must be a multiple of feature_group_count",
    ),
    "small input": (
        {"x": (2, 5, 2, 4), "options": {"padding": "VALID"}},
        r"spatial shape \(5, 2\) is too small for a window of \(3, 3\)",
    ),
}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("fusion", ["kernel", "feature"])
@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(mistake, message, fusion):
    case = GOOD | mistake
    operands = [jnp.ones(case[name]) for name in ("x", "kernels", "coefficients")]
    with pytest.raises(ValueError, match=message):
        dynamic_conv(*operands, **{"fusion": fusion} | case["options"])
