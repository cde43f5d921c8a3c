"""The dense prediction network of Table 3."""

import jax
import numpy as np
import pytest

from dynet_jax.models.fcn import FCN
from tests import reference
from tests.models.smallest import random_variables, smallest


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
def test_logits_at_every_position(output_stride):
    backbone = smallest("dy_resnet18", output_stride=output_stride)
    model = FCN(backbone, num_classes=4, hidden_features=6)
    variables = random_variables(model, 64)
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    logits = np.asarray(reference.jit(model.apply)(variables, images))
    assert logits.shape == (1, 64 // output_stride, 96 // output_stride, 4)

    params, statistics = variables["params"], variables["batch_stats"]
    own = {collection: tree["backbone"] for collection, tree in variables.items()}
    *_, x = reference.jit(lambda v, x: backbone.apply(v, x, features_only=True))(own, images).values()
    x = reference.conv_per_example(x, params["head"]["kernel"][None])
    mean, var = statistics["head_norm"]["mean"], statistics["head_norm"]["var"]
    x = (x - mean) / np.sqrt(var + 1e-5) * params["head_norm"]["scale"] + params["head_norm"]["bias"]
    expected = np.maximum(0, x) @ params["classifier"]["kernel"][0, 0] + params["classifier"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_every_parameter_has_a_gradient():
    model = FCN(smallest("fix_mobile", output_stride=16), num_classes=3, hidden_features=5)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = random_variables(model, 64)
    weights = np.random.default_rng(1).normal(size=(2, 4, 4, 3))

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return (weights * logits).mean()

    for path, gradient in jax.tree.leaves_with_path(reference.jit(jax.grad(loss))(variables["params"])):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)
