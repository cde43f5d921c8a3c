"""Networks whose layers pass on maps to be normalised, as the Pallas kernels need them, are otherwise unchanged."""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.layers import add
from dynet_jax.layers.blocks import Block, ConvSpec, Layers
from dynet_jax.ops import gpu, tpu
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.gpu import dynamic as gpu_dynamic
from dynet_jax.ops.gpu.plans import make_plan
from dynet_jax.ops.strips import strips_of
from dynet_jax.ops.tpu import dynamic as tpu_dynamic
from dynet_jax.ops.tpu.dense_plan import make_dense_plan
from dynet_jax.ops.tpu.grouped_plan import make_grouped_plan
from dynet_jax.ops.tpu.pointwise_plan import PointwisePlan
from dynet_jax.ops.window import make_window
from tests.models.smallest import random_variables, shallow, smallest


def window_of(x, kernels, options):
    geometry = options["strides"], options["padding"], options["kernel_dilation"]
    return make_window(x.shape, kernels.shape[1:-2], *geometry)


def interpreted_plan(x, kernels, fusion, options):
    """Returns the plan for TPUs, with kernels that run on any machine and for any number of images.

    32 strips of 4 images fill the lanes of a map with 32 rows, of one with 16 a half.
    """
    groups, window = options["feature_group_count"], window_of(x, kernels, options)
    if window.is_pointwise:
        strips = strips_of(x.shape) or 1
        return PointwisePlan(x.shape[1] // strips, x.shape[0] * strips, strips, interpret=True)
    layer = x, kernels, groups, window
    return make_grouped_plan(*layer, interpret=True) or make_dense_plan(*layer, interpret=True)


def interpreted_gpu_plan(x, kernels, fusion, options):
    """Returns the plan for GPUs, with kernels that run on any machine."""
    return make_plan(x, kernels, options["feature_group_count"], window_of(x, kernels, options), interpret=True)


def training_step(name, deferred, monkeypatch, plan=lambda *_: None, hardware=(tpu, tpu_dynamic), **arguments):
    """Logits, statistics and gradients of a small network."""
    implementation, dynamic = hardware
    monkeypatch.setattr(implementation, "serves", lambda: deferred)
    monkeypatch.setattr(dynamic, "_plan", plan)
    size = 32
    model = smallest(name, **{"small_input": True, "bn_batch_size": 2, **arguments})
    model = shallow(model)
    variables = random_variables(model, size=size)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, size, size, 3)), jnp.float32)

    def loss(params):
        y, updated = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(y**2), (y, updated)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def assert_alike(actual, expected):
    """Gradients by their norms: among thousands of ReLUs a rounding turns one on or off, and 1 % of a gradient."""
    (gradients, results), (expected_gradients, expected_results) = actual, expected
    chex.assert_trees_all_close(results, expected_results, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, expected_gradients)
    pairs = list(zip(*map(jax.tree.leaves, (gradients, expected_gradients))))
    largest = max(jnp.linalg.norm(theirs) for _, theirs in pairs)
    for ours, theirs in pairs:
        assert jnp.linalg.norm(ours - theirs) < 0.05 * jnp.linalg.norm(theirs) + 1e-5 * largest


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["dy_mobile", "dy_shuffle", "dy_resnet18", "dy_mobilenet_v3_small", "condconv_mobilenet_v2", "fcn_dy_mobile"],
)
def test_training_is_the_same(name, monkeypatch):
    arguments = {"output_stride": 8, "small_input": False} if name.startswith("fcn_") else {}
    deferred, plain = (training_step(name, value, monkeypatch, **arguments) for value in (True, False))
    assert_alike(deferred, plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "plan"), [((tpu, tpu_dynamic), interpreted_plan), ((gpu, gpu_dynamic), interpreted_gpu_plan)]
)
@pytest.mark.parametrize("name", ["dy_mobile", "dy_resnet18"])
def test_training_by_the_kernels_is_the_same(name, hardware, plan, monkeypatch):
    plans = []

    def noted(*layer):
        plans.append(plan(*layer))
        return plans[-1]

    by_kernels = training_step(name, True, monkeypatch, plan=noted, hardware=hardware)
    assert any(plans)
    plain = training_step(name, False, monkeypatch, hardware=hardware)
    assert_alike(by_kernels, plain)


class OwnSpec(NamedTuple):
    features: int
    kernel_size: int
    strides: int = 1
    feature_group_count: int = 1
    kernel_dilation: int = 1
    dilations: tuple[int, int] = (1, 1)


class OwnBlock(Block):
    """A block of a user's own, in the operations of `dynet_jax.layers`."""

    @nn.compact
    def __call__(self, x):
        unit = self.layers.units(x, {"conv": ConvSpec(*self.spec[:5])})
        return add(x, unit("conv", x, "relu"))


class PlainBlock(nn.Module):
    """The same in JAX's own functions, by somebody who has not read about maps."""

    spec: OwnSpec
    layers: Layers

    @nn.compact
    def __call__(self, x):
        return x + nn.relu(self.layers.units(x, {"conv": ConvSpec(*self.spec[:5])})("conv", x))


@pytest.mark.slow
def test_blocks_of_users_are_trained_alike(monkeypatch):
    def step(block, deferred):
        own = smallest("dy_mobile", small_input=True)
        model = own.clone(block=block, stages=((OwnSpec(own.stem[0].features, 3),),), output_stride=None)
        monkeypatch.setattr("tests.models.test_deferred.smallest", lambda *_, **__: model)
        monkeypatch.setattr("tests.models.test_deferred.shallow", lambda model: model)
        return training_step("own", deferred, monkeypatch)

    expected = step(PlainBlock, False)
    for block, deferred in ((OwnBlock, False), (OwnBlock, True), (PlainBlock, True)):
        assert_alike(step(block, deferred), expected)


def traced_for(backend, kind, dynamic=True, train=True):
    """A step's program for some hardware, and its kernels."""
    model = smallest("dy_mobile", small_input=True)
    model = model if dynamic else model.clone(dynamic=None)
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    with tracing_for(backend, kind), traced_kernels() as kernels:
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        kernels.clear()
        program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
        return str(program(variables, images)), kernels


def trained_for(*hardware, **options):
    return {kernel.name for kernel in traced_for(*hardware, **options)[1]}


@pytest.mark.slow
def test_few_images_are_cut_into_strips():
    """64 images into 2, which fill the lanes, from the stem on, whose strips overlap by a row on both sides."""
    program, kernels = traced_for("tpu", "TPU v5 lite")
    first, second = kernels[:2]
    assert (first.name, first.arrays[0].shape[0], first.arrays[0].shape[-1]) == ("pointwise_conv_relu6", 16, 128)
    assert (second.name, second.outputs[0].shape[0], second.outputs[0].shape[-1]) == ("grouped_conv_relu6", 16, 128)
    assert "f32[128,18,32,3]" in program
    assert "f32[128," not in traced_for("tpu", "TPU v5 lite", dynamic=False)[0]


@pytest.mark.slow
def test_it_is_for_training_dynamic_networks_on_tpus(monkeypatch):
    normalising = {"grouped_conv_relu6", "pointwise_conv_relu6"}
    assert normalising <= trained_for("tpu", "TPU v5 lite")
    assert not normalising & trained_for("tpu", "TPU v5 lite", train=False)
    assert not trained_for("tpu", "TPU v5 lite", dynamic=False)
    assert not trained_for("tpu", "TPU v4")
    assert not trained_for("cpu", "cpu")
    monkeypatch.setenv("DYNET_JAX_PALLAS", "0")
    assert not trained_for("tpu", "TPU v5 lite")
