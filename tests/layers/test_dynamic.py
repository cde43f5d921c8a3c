"""DynamicConv and CoefficientPredictor against `flax.linen.Conv` and a few lines of numpy."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dynet_jax import CoefficientPredictor, CoefficientSpec, DynamicConv
from tests import reference


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(params, x):
    return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def randomised(variables):
    """The same tree with random values in place of the zeros and ones of an init."""
    leaves, tree = jax.tree.flatten(variables)
    return jax.tree.unflatten(tree, [0.5 * normal(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


def init(layer, *arguments):
    return randomised(jax.eval_shape(layer.init, jax.random.key(0), *arguments))


# Against flax.linen.Conv ----------------------------------------------------------------------------------------------

GEOMETRIES = {
    "default": ((2, 7, 6, 4), {"kernel_size": (3, 3)}),
    "stride2_no_bias": ((2, 7, 6, 4), {"kernel_size": (3, 3), "strides": 2, "use_bias": False}),
    "strides_dilated": ((2, 9, 8, 4), {"kernel_size": (3, 2), "strides": (1, 2), "kernel_dilation": (2, 1)}),
    "grouped_valid": ((2, 7, 6, 4), {"kernel_size": (3, 3), "feature_group_count": 2, "padding": "VALID"}),
    "depthwise_pairs": ((2, 7, 6, 4), {"kernel_size": (3, 3), "feature_group_count": 4, "padding": ((1, 0), (2, 1))}),
    "circular": ((2, 7, 6, 4), {"kernel_size": (4, 3), "padding": "CIRCULAR"}),
    "reflect": ((2, 7, 6, 4), {"kernel_size": (3, 4), "padding": "REFLECT"}),
    "int_padding": ((2, 7, 6, 4), {"kernel_size": (3, 3), "padding": 2, "strides": 3}),
    "1d_causal": ((2, 9, 4), {"kernel_size": 3, "padding": "CAUSAL", "kernel_dilation": 2}),
    "3d": ((2, 4, 5, 3, 4), {"kernel_size": (2, 3, 1), "strides": 2}),
    "no_batch": ((7, 6, 4), {"kernel_size": (3, 3), "strides": 2}),
    "two_batch_dimensions": ((2, 3, 5, 4, 4), {"kernel_size": (3, 3)}),
    "three_batch_dimensions_1d": ((2, 1, 3, 5, 4), {"kernel_size": (3,)}),
}


@pytest.mark.parametrize(("shape", "options"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_equal_kernels_make_it_a_static_convolution(shape, options):
    """g_t equal kernels with coefficients that sum to one, predicted by the layer or given to it."""
    x = normal(*shape)
    static = nn.Conv(features=8, **options)
    static_variables = init(static, x)
    layer = DynamicConv(features=8, spec=CoefficientSpec(3, activation="softmax"), **options)
    variables = init(layer, x)
    variables["params"]["kernels"] = np.stack([static_variables["params"]["kernel"]] * 3)
    if "bias" in variables["params"]:
        variables["params"]["bias"] = static_variables["params"]["bias"]
    rank = len(variables["params"]["kernels"].shape) - 3
    coefficients = np.random.default_rng(1).dirichlet(np.ones(3), (int(np.prod(shape[: -rank - 1])), 8))
    coefficients = coefficients.swapaxes(1, 2).astype(np.float32)

    @reference.jit
    def outputs(x):
        without_predictor = {"params": {k: v for k, v in variables["params"].items() if k != "predictor"}}
        return (
            static.apply(static_variables, x),
            layer.apply(variables, x),
            layer.apply(without_predictor, x, coefficients),
        )

    expected, owned, given = outputs(x)
    chex.assert_trees_all_close(owned, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(given, expected, rtol=1e-4, atol=1e-5)


def test_group_size_1_is_channel_attention():
    x = normal(2, 6, 5, 4)
    layer = DynamicConv(features=6, kernel_size=(3, 3), group_size=1)
    variables = init(layer, x)
    params = variables["params"]
    attention = sigmoid(dense(params["predictor"]["coefficients"], x.mean((1, 2))))
    static = nn.Conv(6, (3, 3), use_bias=False).apply({"params": {"kernel": params["kernels"][0]}}, x)
    expected = attention[:, None, None] * static + params["bias"]
    chex.assert_trees_all_close(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


# Coefficients ---------------------------------------------------------------------------------------------------------


def test_predictor_serves_each_layer_in_turn():
    x = normal(2, 4, 5, 8)
    predictor = CoefficientPredictor(features=(3, 5), group_size=4)
    variables = init(predictor, x)
    logits = dense(variables["params"]["coefficients"], x.mean((1, 2)))
    expected = sigmoid(logits[:, :12]).reshape(2, 4, 3), sigmoid(logits[:, 12:]).reshape(2, 4, 5)
    chex.assert_trees_all_close(predictor.apply(variables, x), expected, rtol=1e-5)


def test_predictor_with_hidden_layer():
    x = normal(2, 6, 8)
    predictor = CoefficientPredictor(features=(3,), spec=CoefficientSpec(4, hidden_features=5))
    variables = init(predictor, x)
    hidden = np.maximum(dense(variables["params"]["hidden"], x.mean(1)), 0)
    assert (hidden == 0).any()
    assert (hidden > 0).any()
    expected = sigmoid(dense(variables["params"]["coefficients"], hidden)).reshape(2, 4, 3)
    chex.assert_trees_all_close(predictor.apply(variables, x), (expected,), rtol=1e-5)


def test_predictor_with_normalised_features():
    """BatchNorm over the images' pooled features, before the first layer."""
    x = normal(5, 6, 8)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    spec = CoefficientSpec(4, hidden_features=5, normalize_pooled=True)
    predictor = CoefficientPredictor(features=(3,), spec=spec, norm=norm)
    with pytest.raises(ValueError, match="normalize_pooled needs a BatchNorm; give norm="):
        predictor.clone(norm=None).init(jax.random.key(0), x)
    variables = init(predictor, x)
    variables["batch_stats"]["norm"]["var"] = np.abs(variables["batch_stats"]["norm"]["var"])
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    pooled = (x.mean(1) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["norm"]["scale"] + params["norm"][
        "bias"
    ]
    expected = sigmoid(dense(params["coefficients"], np.maximum(dense(params["hidden"], pooled), 0))).reshape(5, 4, 3)
    chex.assert_trees_all_close(predictor.apply(variables, x), (expected,), rtol=1e-4)


def test_predictor_with_limited_features():
    """In training nothing is clipped and the statistics follow the batch; in evaluation they set the limits."""
    x, momentum = normal(5, 6, 8), 0.8
    evaluation = functools.partial(nn.BatchNorm, use_running_average=True, momentum=momentum)
    spec = CoefficientSpec(4, pooled_limit=1.5)
    predictor = CoefficientPredictor(features=(3,), spec=spec, norm=evaluation)
    with pytest.raises(ValueError, match="pooled_limit needs a BatchNorm; give norm="):
        predictor.clone(norm=None).init(jax.random.key(0), x)
    variables = init(predictor, x)
    assert variables["params"].keys() == {"coefficients"}  # the BatchNorm itself is not there
    params, pooled = variables["params"], x.mean(1)
    mean, var = normal(8), np.abs(normal(8)) / 20
    variables = {"params": params, "batch_stats": {"limit": {"mean": mean, "var": var}}}
    training = predictor.clone(norm=functools.partial(evaluation, use_running_average=False))
    found, changed = training.apply(variables, x, mutable=["batch_stats"])
    expected = sigmoid(dense(params["coefficients"], pooled)).reshape(5, 4, 3)
    chex.assert_trees_all_close(found, (expected,), rtol=1e-4)
    limit = changed["batch_stats"]["limit"]
    chex.assert_trees_all_close(limit["mean"], 0.8 * mean + 0.2 * pooled.mean(0), rtol=1e-4)
    chex.assert_trees_all_close(limit["var"], 0.8 * var + 0.2 * pooled.var(0), rtol=1e-4)
    clipped = np.minimum(np.maximum(pooled, mean - 1.5 * np.sqrt(var)), mean + 1.5 * np.sqrt(var))
    assert (clipped != pooled).any()
    assert (clipped == pooled).any()
    expected = sigmoid(dense(params["coefficients"], clipped)).reshape(5, 4, 3)
    chex.assert_trees_all_close(predictor.apply(variables, x), (expected,), rtol=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_an_annealed_predictor_has_the_temperature_of_its_variables(activation):
    x = normal(2, 4, 5, 8)
    spec = CoefficientSpec(4, activation=activation, temperature=30.0, annealed=True)
    annealed = CoefficientPredictor((3,), spec=spec)
    variables = annealed.init(jax.random.key(0), x)
    assert variables["batch_stats"] == {"temperature": 30.0}
    for temperature in (30.0, 2.5):
        plain = annealed.clone(spec=dataclasses.replace(spec, annealed=False, temperature=temperature))
        stats = {"temperature": jnp.float32(temperature)}
        found = annealed.apply({"params": variables["params"], "batch_stats": stats}, x)
        chex.assert_trees_all_close(found, plain.apply({"params": variables["params"]}, x), rtol=1e-6)
    half = annealed.clone(dtype=jnp.bfloat16).apply(variables, x)
    assert half[0].dtype == jnp.bfloat16


def test_condconv():
    """One sigmoid per kernel and layer, shared by all output channels."""
    x = normal(2, 5, 5, 4)
    layer = DynamicConv(6, (3, 3), group_size=3, spec=CoefficientSpec(coefficient_scope="layer"), use_bias=False)
    variables = init(layer, x)
    routing = sigmoid(dense(variables["params"]["predictor"]["coefficients"], x.mean((1, 2))))
    assert routing.shape == (2, 3)
    expected = reference.dynamic_conv(x, variables["params"]["kernels"], routing[:, :, None])
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_dynamic_convolution_over_kernels_dy_cnn(temperature):
    """A softmax over the kernels, behind a hidden layer of C_in / 4."""
    x = normal(2, 5, 5, 8)
    spec = CoefficientSpec(4, None, 4, coefficient_scope="layer", activation="softmax", temperature=temperature)
    layer = DynamicConv(6, (3, 3), spec=spec, use_bias=False)
    variables = init(layer, x)
    params = variables["params"]["predictor"]
    logits = dense(params["coefficients"], np.maximum(dense(params["hidden"], x.mean((1, 2))), 0)) / temperature
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = reference.dynamic_conv(x, variables["params"]["kernels"], softmax[:, :, None])
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coefficient_scope", ["channel", "layer"])
def test_softmax_sums_to_one_over_the_kernels_and_temperature_flattens_it(coefficient_scope):
    x, spread = normal(2, 5, 5, 8), {}
    for temperature in (1.0, 30.0):
        spec = CoefficientSpec(coefficient_scope=coefficient_scope, activation="softmax", temperature=temperature)
        predictor = CoefficientPredictor((3, 5), 4, spec)
        coefficients = predictor.apply(init(predictor, x), x)
        for part in coefficients:
            np.testing.assert_allclose(part.sum(axis=1), 1, rtol=1e-5)
        spread[temperature] = max(float(jnp.abs(part - 1 / 4).max()) for part in coefficients)
    assert 0 < spread[30.0] < spread[1.0] / 10


def test_given_coefficients_need_no_predictor():
    layer = DynamicConv(6, (3, 3), group_size=3)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((2, 5, 5, 4)), jnp.ones((2, 3, 6)))
    assert {name: leaf.shape for name, leaf in shapes["params"].items()} == {"kernels": (3, 3, 3, 4, 6), "bias": (6,)}


def test_fusions_agree():
    x = normal(2, 5, 5, 4)
    layers = [DynamicConv(6, (3, 3), fusion=fusion) for fusion in ("kernel", "feature", "auto")]
    by_kernel, by_feature, auto = reference.jit(lambda: [layer.apply(init(layer, x), x) for layer in layers])()
    assert jnp.abs(by_kernel).max() > 1
    chex.assert_trees_all_close(by_feature, by_kernel, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(auto, by_kernel, rtol=1e-4, atol=1e-5)


# Parameters -----------------------------------------------------------------------------------------------------------


def test_every_kernel_of_the_bank_is_initialised_as_a_kernel_of_its_own():
    layer = DynamicConv(128, (3, 3), feature_group_count=2, group_size=4)
    kernels = np.asarray(reference.jit(layer.init)(jax.random.key(0), jnp.ones((1, 4, 4, 32)))["params"]["kernels"])
    fan_in = 3 * 3 * 32 // 2
    np.testing.assert_allclose(kernels.std((1, 2, 3, 4)), fan_in**-0.5, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(kernels.reshape(4, -1)), np.eye(4), atol=0.05)


@pytest.mark.parametrize("fusion", ["kernel", "feature"])
def test_bfloat16_computes_near_float32_and_keeps_parameters_in_float32(fusion):
    x = normal(2, 6, 6, 4)
    layer = DynamicConv(8, (3, 3), spec=CoefficientSpec(hidden_features=4), fusion=fusion, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0), x))} == {
        jnp.dtype("float32")
    }
    variables = init(layer, x)
    y, expected = reference.jit(lambda v: (layer.apply(v, x), layer.clone(dtype=jnp.float32).apply(v, x)))(variables)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=3e-2 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("scope", ["channel", "layer"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_every_parameter_learns(activation, scope):
    x = normal(2, 6, 6, 8)
    spec = CoefficientSpec(hidden_features=4, coefficient_scope=scope, activation=activation)
    layer = DynamicConv(6, (3, 3), spec=spec)
    gradients = reference.jit(jax.grad(lambda v: jnp.sum(jnp.sin(layer.apply(v, x)))))(init(layer, x))
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert jnp.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_works_inside_nnx():
    x = normal(2, 6, 6, 4)
    layer = DynamicConv(8, (3, 3), strides=2)
    module = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(x)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    variables = {"params": {name: params[name] for name in ("kernels", "bias", "predictor")}}

    def loss(y):
        return jnp.sum(jnp.sin(y)), y

    @nnx.jit
    def in_nnx(module):
        gradients, y = nnx.grad(lambda module: loss(module(x)), has_aux=True)(module)
        return y, nnx.to_pure_dict(gradients)

    @reference.jit
    def in_linen(variables):
        gradients, y = jax.grad(lambda variables: loss(layer.apply(variables, x)), has_aux=True)(variables)
        return y, gradients["params"]

    (y, gradients), expected = in_nnx(module), in_linen(variables)
    gradients = {name: gradients[name] for name in variables["params"]}
    chex.assert_trees_all_close((y, gradients), expected, rtol=1e-4, atol=1e-5)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient_scope": "image"}, "coefficient_scope must be 'channel' or 'layer', not 'image'"),
        ({"activation": "relu"}, "activation must be 'sigmoid' or 'softmax', not 'relu'"),
        ({"group_size": 0}, "group_size must be a positive int"),
        ({"hidden_features": 4, "hidden_divisor": 2}, "both give the hidden layer's width"),
        ({"hidden_features": 0}, "hidden_features must be a positive int, or None"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_mistakes_about_coefficients_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CoefficientSpec(**options)


def test_group_size_is_that_of_the_bank_and_of_its_predictor():
    for layer in (DynamicConv(6, (3, 3), group_size=2), DynamicConv(6, (3, 3), spec=CoefficientSpec(2))):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((2, 5, 5, 4)))["params"]
        assert shapes["kernels"].shape[0] == 2
        assert shapes["predictor"]["coefficients"]["bias"].shape == (12,)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "both"}, "fusion must be one of"),
        ({"feature_group_count": 4}, "feature_group_count=4 must divide both the 4 input channels and features=6"),
        ({"kernel_size": (3, 3, 3)}, "x must be .batch, .spatial, channels"),
        ({"padding": "full"}, "padding 'full' is not one of"),
    ],
)
def test_mistakes_are_named(options, message):
    layer = DynamicConv(**{"features": 6, "kernel_size": (3, 3)} | options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((5, 5, 4)))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("coefficients", "message"),
    [((2, 5, 6), "group_size=6, features=6"), ((3, 6, 6), "x has 2 examples but coefficients has 3")],
)
def test_misfitting_coefficients_are_named(coefficients, message):
    with pytest.raises(ValueError, match=message):
        init(DynamicConv(6, (3, 3)), jnp.ones((2, 5, 5, 4)), jnp.ones(coefficients))
