"""The NNX layer: the numbers of the Linen layer, under every transformation; counted, recorded and exported."""

import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dynet_jax
from dynet_jax import CoefficientSpec
from dynet_jax.analysis import count_macs
from dynet_jax.errors import UserError
from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.export.stablehlo import to_stablehlo
from dynet_jax.inference import InferenceModel, program_of
from dynet_jax.nnx import CoefficientPredictor, DynamicConv
from tests.export.test_onnx import in_runtime
from tests.export.test_onnx import logits as onnx_logits
from tests.inference.networks import assert_same, images
from tests.inference.test_recording import UNIT

OPTIONS = {
    "plain": {},
    "strides as a list": {"strides": [2, 1], "kernel_size": (3, 5)},
    "groups": {"feature_group_count": 2, "kernel_dilation": 2, "group_size": 3},
    "padding": {"padding": [(1, 2), (0, 1)], "use_bias": False},
    "hidden layer, softmax": {"spec": CoefficientSpec(2, hidden_divisor=2, activation="softmax", temperature=3.0)},
    "one for all channels": {"spec": CoefficientSpec(coefficient_scope="layer", hidden_features=5), "padding": "TORCH"},
    "features fused": {"fusion": "feature"},
    "half": {"dtype": jnp.bfloat16},
}


def with_parameters(layer, params):
    """Puts the parameters of a Linen layer into an NNX layer."""
    nnx.update(layer, jax.tree.map(jnp.asarray, dict(params)))
    return layer


def pair(**options):
    """(Linen layer, its parameters drawn widely, the NNX layer with them)"""
    options = {"features": 6, "kernel_size": (3, 3), **options}
    linen = dynet_jax.DynamicConv(**options)
    params = linen.init(jax.random.key(0), jnp.zeros((1, 9, 8, 4)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)
    return linen, params, with_parameters(DynamicConv(4, **options, rngs=nnx.Rngs(0)), params)


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
def test_same_numbers_as_linen(case):
    linen, params, layer = pair(**OPTIONS[case])
    x = jax.random.normal(jax.random.key(1), (3, 9, 8, 4))
    wanted = jax.jit(linen.apply)({"params": params}, x)
    got = nnx.jit(DynamicConv.__call__)(layer, x)
    chex.assert_trees_all_equal(got, wanted)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(jnp.asarray, nnx.to_pure_dict(nnx.state(layer))), params)


@pytest.mark.slow
def test_same_transformations():
    linen, params, layer = pair()
    x = jax.random.normal(jax.random.key(1), (3, 9, 8, 4))
    wanted = linen.apply({"params": params}, x)
    close = {"rtol": 1e-5, "atol": 1e-5}
    chex.assert_trees_all_close(jax.jit(lambda layer, x: layer(x))(layer, x), wanted, **close)
    chex.assert_trees_all_close(jax.jit(layer)(x), wanted, **close)
    chex.assert_trees_all_close(jax.vmap(layer)(x), wanted, **close)
    chex.assert_trees_all_close(layer(x[:, None])[:, 0], wanted, **close)
    chex.assert_trees_all_close(layer(x[0]), wanted[0], **close)
    gradient = nnx.grad(lambda layer: jnp.square(layer(x)).sum())(layer)
    of_linen = jax.grad(lambda params: jnp.square(linen.apply({"params": params}, x)).sum())(params)
    chex.assert_trees_all_close(nnx.to_pure_dict(gradient), of_linen, rtol=1e-3, atol=1e-3)


def test_initial_distributions():
    """Each kernel of a bank is drawn by itself, with the deviation of an ordinary kernel, and biases are zero."""
    layer = DynamicConv(16, 32, (3, 3), group_size=4, rngs=nnx.Rngs(1))
    linen = dynet_jax.DynamicConv(32, (3, 3), group_size=4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))["params"]
    kernels = np.asarray(layer.kernels[...])
    for own, other in zip(kernels, linen["kernels"]):
        assert own.std() == pytest.approx(1 / np.sqrt(9 * 16), rel=0.05)
        assert own.std() == pytest.approx(float(other.std()), rel=0.05)
    correlations = np.corrcoef(kernels.reshape(4, -1)) - np.eye(4)
    assert np.abs(correlations).max() < 0.06  # 4,608 numbers each: four deviations
    assert np.std(layer.predictor.coefficients.kernel[...]) == pytest.approx(0.01, rel=0.1)
    assert not np.any(layer.bias[...])
    assert not np.any(layer.predictor.coefficients.bias[...])


def test_refusals():
    rngs = nnx.Rngs(0)
    with pytest.raises(UserError, match="feature_group_count=3 does not divide 4 and 6"):
        DynamicConv(4, 6, (3, 3), feature_group_count=3, rngs=rngs)
    with pytest.raises(UserError, match="annealed is an option of the Linen layer"):
        DynamicConv(4, 6, (3, 3), spec=CoefficientSpec(annealed=True), rngs=rngs)
    with pytest.raises(ValueError, match="has to be called with coefficients"):
        DynamicConv(4, 6, (3, 3), predictor=False, rngs=rngs)(jnp.zeros((1, 8, 8, 4)))
    with pytest.raises(ValueError, match="channels do not fit: x has 3"):
        DynamicConv(4, 6, (3, 3), predictor=False, rngs=rngs)(jnp.zeros((1, 8, 8, 3)), jnp.ones((1, 6, 6)))


class Network(nnx.Module):
    """Layers of NNX, a dynamic convolution with its own predictor, and two that share one."""

    def __init__(self, rngs):
        self.stem, self.norm = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.groups, self.dropout = nnx.GroupNorm(8, num_groups=4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        spec = CoefficientSpec(3, hidden_divisor=2, temperature=2.0)
        self.own = DynamicConv(8, 8, (3, 3), spec=spec, rngs=rngs)
        self.predictor = CoefficientPredictor(8, (8, 6), group_size=2, rngs=rngs)
        self.first = DynamicConv(8, 8, (3, 3), group_size=2, predictor=False, feature_group_count=2, rngs=rngs)
        self.second = DynamicConv(8, 6, (1, 1), group_size=2, predictor=False, rngs=rngs)
        self.classifier = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        x = x + self.own(nnx.gelu(self.groups(x)))
        first, second = self.predictor(x)
        x = nnx.relu(self.second(nnx.max_pool(nnx.relu(self.first(x, first)), (2, 2), strides=(2, 2)), second))
        return self.classifier(self.dropout(x.mean((1, 2))))


@pytest.mark.slow
def test_recorded_and_exported():
    model = Network(nnx.Rngs(0))
    model.norm.mean[...] = jnp.linspace(-1, 1, 8)
    program = program_of(model, None, 16)
    assert model.dropout.deterministic is False  # the network itself stays in training
    evaluated = nnx.clone(model)
    evaluated.eval()
    sessions = [in_runtime(program_to_onnx(program, preprocessing=UNIT, batch=batch)) for batch in (None, 1)]
    of_module = InferenceModel.of_module(model, {}, UNIT)
    exported = to_stablehlo(of_module)
    for shape in ((2, 19, 18), (1, 16, 17)):
        pixels = images(*shape)
        wanted = np.asarray(evaluated(pixels / np.float32(255)))
        assert_same(InferenceModel(program, UNIT, runtime="jax").logits(pixels), wanted)
        assert_same(of_module.logits(pixels), wanted)
        assert_same(np.asarray(exported.call(pixels)["logits"]), wanted)
        assert_same(onnx_logits(sessions[0], pixels), wanted)
        assert_same(onnx_logits(sessions[1], pixels[:1]), wanted[:1])


class LinenNetwork(nn.Module):
    """The convolutions, predictors and classifier of `Network` in Linen."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), strides=2)(x)
        x = dynet_jax.DynamicConv(8, (3, 3), spec=CoefficientSpec(3, hidden_divisor=2))(x)
        first, second = dynet_jax.CoefficientPredictor((8, 6), group_size=2)(x)
        x = dynet_jax.DynamicConv(8, (3, 3), group_size=2, feature_group_count=2)(x, first)
        x = dynet_jax.DynamicConv(6, (1, 1), group_size=2)(nn.max_pool(x, (2, 2), (2, 2)), second)
        return nn.Dense(5)(x.mean((1, 2)))


def test_counted():
    """As the same network in Linen; parameters of the norms come on top."""
    found, wanted = (count_macs(model, (16, 12, 3)) for model in (Network(nnx.Rngs(0)), LinenNetwork()))
    for part in ("convolution", "fusion", "predictor", "classifier", "total"):
        assert getattr(found, part) == getattr(wanted, part), part
    assert found.parameters == wanted.parameters + 4 * 8
    assert [row.kind for row in found.rows if row.convolution] == [
        "static 3x3",
        "dynamic 3x3",
        "dynamic 3x3",
        "dynamic 1x1",
    ]


def test_the_package_alone_does_not_import_it():
    code = "import sys, dynet_jax; sys.exit('dynet_jax.nnx' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
