"""The registered networks: their sizes, their behaviour, and one Dy-mobile block in plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import BatchNorm, create_model, list_models
from dynet_jax.analysis import count_macs
from dynet_jax.errors import UserError
from dynet_jax.models.mobilenet import BlockSpec, InvertedResidual
from tests import reference

# Parameters, and multiply-adds at 224x224 of convolutions, everything but the classifier, and everything, at width 1.0.
# dy_mobile: the paper's 129M (first version, convolutions) and 135M (second version). mobilenet_v2: torchvision's
# parameters. fix_mobile: Table 4, as much as dy_mobile's convolutions.
GOLDEN = {
    "dy_mobile": (7_617_320, 129_262_392, 135_143_640, 136_423_640),
    "fix_mobile": (2_191_292, 129_262_392, 129_262_392, 130_542_392),
    "mobilenet_v2": (3_504_872, 299_494_272, 299_494_272, 300_774_272),
}


@functools.cache
def count(name, size=224, **arguments):
    return count_macs(create_model(name, **arguments), (size, size, 3))


def test_every_model_has_a_golden_row():
    assert list_models() == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_macs(name):
    macs = count(name)
    assert (macs.parameters, macs.convolution, macs.total - macs.classifier, macs.total) == GOLDEN[name]


@pytest.mark.parametrize(("group_size", "millions"), [(1, 130.2), (2, 131.2), (4, 133.2), (6, 135.1)])
def test_group_size_hardly_changes_the_cost(group_size, millions):
    macs = count("dy_mobile", group_size=group_size)
    assert round((macs.total - macs.classifier) / 1e6, 1) == millions
    assert macs.convolution == 129_262_392


def test_dy_mobile_halves_mobilenet_v2():
    """54.7 %, by the paper's 135M and 298M."""
    dynamic, static = count("dy_mobile"), count("mobilenet_v2")
    assert 1 - (dynamic.total - dynamic.classifier) / static.convolution == pytest.approx(0.547, abs=0.003)


def shapes(model, size=64, batch=2):
    """Shapes of a model's variables and of its logits, without computing anything."""
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    return variables, logits


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_dtypes(name):
    variables, logits = shapes(create_model(name, num_classes=7, width=0.25, dtype=jnp.bfloat16))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("small_input", "stride"), [(False, 32), (True, 8)])
def test_small_input_keeps_resolution(name, small_input, stride):
    rows = count(name, 64, width=0.25, small_input=small_input).rows
    head = next(row for row in rows if row.name == "head")
    assert head.output_shape == (64 // stride, 64 // stride, 1280)


@pytest.mark.parametrize("name", GOLDEN)
def test_width_scales_the_network(name):
    normal = count(name).convolution
    assert count(name, width=0.5).convolution < 0.5 * normal
    assert count(name, width=1.5).convolution > 1.5 * normal


def test_group_size_is_the_number_of_kernels():
    variables, _ = shapes(create_model("dy_mobile", width=0.25, group_size=3))
    banks = [leaf for path, leaf in jax.tree.leaves_with_path(variables) if "'kernels'" in jax.tree_util.keystr(path)]
    assert len(banks) == 3 * 17
    assert {leaf.shape[0] for leaf in banks} == {3}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_every_parameter_learns(name):
    model = create_model(name, num_classes=3, width=0.1, **({"group_size": 2} if name.startswith("dy_") else {}))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 64, 64, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), shapes(model)[0])

    def loss(params):
        logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(jnp.arange(12.0).reshape(4, 3)) * logits), (logits, updates["batch_stats"])

    gradients, (logits, statistics) = reference.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert np.ptp(logits, axis=0).min() > 1e-6  # the images matter
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert 0 < jnp.abs(gradient).max() < np.inf, jax.tree_util.keystr(path)
    for before, after in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(statistics), strict=True):
        assert (before != after).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 3e-2)])
def test_dy_mobile_block_is_the_papers(dtype, tolerance):
    """Section 3.3: one predictor on the block's input; 1x1, 3x3 of 6 channels a group, 1x1, each with BatchNorm."""
    batch, channels, group_size = 2, 12, 6
    rng = np.random.default_rng(0)
    spec = BlockSpec(hidden_features=channels, features=channels, strides=1, groups=channels // 6, expand=True)
    block = InvertedResidual(spec, group_size, functools.partial(BatchNorm, use_running_average=True), dtype)
    x = np.asarray(rng.normal(size=(batch, 5, 6, channels)), dtype)
    leaves, tree = jax.tree.flatten(jax.eval_shape(block.init, jax.random.key(0), x))
    # Positive, for the variances; then weights around zero.
    variables = jax.tree.unflatten(tree, [rng.uniform(0.1, 1.5, leaf.shape).astype(np.float32) for leaf in leaves])
    params, statistics = variables["params"], variables["batch_stats"]
    for layer in ("expand", "spatial", "project"):
        params[layer]["kernels"] -= 0.8
        params[f"{layer}_norm"]["bias"] -= 0.8
    params["predictor"]["coefficients"]["kernel"] -= 0.8

    x = x.astype(np.float64)
    dense = params["predictor"]["coefficients"]
    logits = x.mean((1, 2)) @ dense["kernel"] + dense["bias"]
    coefficients = 1 / (1 + np.exp(-logits))
    y = x
    for i, (layer, groups) in enumerate([("expand", 1), ("spatial", 2), ("project", 1)]):
        eta = coefficients[:, i * group_size * channels :][:, : group_size * channels]
        eta = eta.reshape(batch, group_size, channels)
        y = reference.dynamic_conv(y, params[layer]["kernels"], eta, feature_group_count=groups)
        mean, var = statistics[f"{layer}_norm"]["mean"], statistics[f"{layer}_norm"]["var"]
        y = (y - mean) / np.sqrt(var + 1e-5) * params[f"{layer}_norm"]["scale"] + params[f"{layer}_norm"]["bias"]
        if layer != "project":
            assert (y < 0).any()
            assert (y > 6).any()
            y = np.clip(y, 0, 6)

    expected = x + y
    got = reference.jit(block.apply)(variables, jnp.asarray(x, dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "dy_mobil"}, "unknown model 'dy_mobil'; did you mean dy_mobile"),
        ({"name": "transformer"}, "unknown model 'transformer'; choose from: dy_mobile, "),
        ({"name": "dy_mobile", "group_sizes": 6}, "dy_mobile has no argument 'group_sizes'; did you mean group_size"),
        ({"name": "mobilenet_v2", "group_size": 6}, "mobilenet_v2 has no argument 'group_size'"),
        ({"name": "dy_mobile", "smal_input": True}, "no argument 'smal_input'; did you mean small_input"),
        ({"name": "dy_mobile", "blocks": ()}, "no argument 'blocks'"),
        ({"name": "dy_mobile", "width": 0}, "width must be a positive number"),
        ({"name": "mobilenet_v2", "width": -1.0}, "width must be a positive number"),
        ({"name": "mobilenet_v2", "width": float("nan")}, "width must be a positive number"),
        ({"name": "fix_mobile", "num_classes": 0}, "num_classes must be a positive int, not 0"),
        ({"name": "fix_mobile", "num_classes": 10.0}, "num_classes must be a positive int, not 10.0"),
        ({"name": "dy_mobile", "group_size": 0}, "group_size must be a positive int .6 in the paper., not 0"),
        ({"name": "dy_mobile", "group_size": None}, "group_size must be a positive int"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(**arguments)


def test_list_models_takes_a_pattern():
    assert list_models("*_mobile") == ["dy_mobile", "fix_mobile"]
    assert list_models("no_such_*") == []
