"""Feature maps by stage, and the resolution at which they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import create_model, list_models
from tests.models.smallest import random_variables, shallow, smallest


def feature_shapes(model, size=64):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, features_only=True), jax.random.key(0), images
    )
    return {name: feature.shape[1:] for name, feature in features.items()}, variables


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides_and_channels"),
    [
        ("resnet50", [(2, 64), (4, 256), (8, 512), (16, 1024), (32, 2048)]),
        ("dy_resnet18", [(2, 64), (4, 32), (8, 64), (16, 128), (32, 256)]),
        ("shufflenet_v2", [(2, 24), (8, 116), (16, 232), (32, 464)]),
        ("dy_mobile", [(2, 32), (2, 18), (4, 24), (8, 36), (16, 66), (16, 96), (32, 162), (32, 324)]),
        ("mobilenet_v3_large", [(2, 16), (2, 16), (4, 24), (8, 40), (16, 80), (16, 112), (32, 160)]),
    ],
)
def test_maps_of_every_stage(name, strides_and_channels):
    features, variables = feature_shapes(create_model(name))
    assert list(features) == ["stem", *(f"stage{i}" for i in range(1, len(strides_and_channels)))]
    assert list(features.values()) == [(64 // s, 64 // s, c) for s, c in strides_and_channels]
    assert not {"head", "hidden", "classifier"} & variables["params"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
@pytest.mark.parametrize(
    ("options", "stride"),
    [({}, 32), ({"output_stride": 16}, 16), ({"output_stride": 8}, 8), ({"small_input": True}, 8)],
    ids=["plain", "16", "8", "small"],
)
def test_stride(name, options, stride):
    model = smallest(name, **options)
    features, _ = feature_shapes(model)
    height, width, _ = list(features.values())[-1]
    assert (height, width, model.stride) == (64 // stride, 64 // stride, stride)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_resnet18", "resnet50", "dy_mobile", "fix_shuffle"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_computes_the_strided_network_in_between(name, output_stride):
    """Every 2nd or 4th position of the dilated maps equals the strided network's, with equal padding on both sides.

    Coefficients come from the mean over a map, which differs: constant predictors take that out.
    """
    strided = smallest(name, padding="TORCH")
    dilated = strided.clone(output_stride=output_stride)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)

    def hold_coefficients(path, leaf):
        name = jax.tree_util.keystr(path)
        return np.zeros_like(leaf) if "'predictor'" in name and "'kernel'" in name else leaf

    variables = jax.tree_util.tree_map_with_path(hold_coefficients, random_variables(strided, 64))
    run = lambda model: jax.jit(lambda v, x: model.apply(v, x, features_only=True))(variables, images)  # noqa: E731
    expected, got = run(strided), run(dilated)
    for stage in expected:
        step = got[stage].shape[1] // expected[stage].shape[1]
        np.testing.assert_allclose(
            got[stage][:, ::step, ::step], expected[stage], rtol=0, atol=1e-4 * np.abs(expected[stage]).max()
        )
    assert step == 32 // output_stride
    assert np.std(got[stage]) > 1e-3 * np.abs(got[stage]).max()


@pytest.mark.slow
def test_features_are_those_behind_the_logits():
    model = shallow(smallest("dy_shuffle", small_input=True))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    features = jax.jit(lambda v, x: model.apply(v, x, features_only=True))(variables, images)["stage1"]
    x = jnp.maximum(0, features @ variables["params"]["head"]["kernel"][0, 0] / np.sqrt(1 + 1e-5)).mean((1, 2))
    classifier = variables["params"]["classifier"]
    expected = x @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, rtol=1e-4, atol=1e-6)
