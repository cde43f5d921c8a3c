"""Counts against sums by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dynet_jax import BatchNorm, CoefficientPredictor, CoefficientSpec, DynamicConv, create_model, list_models
from dynet_jax.analysis import count_macs
from dynet_jax.analysis.feature_maps import list_layers
from dynet_jax.analysis.rank import list_convolutions
from dynet_jax.errors import UserError
from dynet_jax.layers import Conv
from dynet_jax.layers.call_options import call_options
from dynet_jax.layers.coefficients import predicted_coefficients
from tests.models.smallest import smallest


class Tiny(nn.Module):
    """Every kind of row once."""

    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(use_running_average=not train)(Conv(8, (3, 3), strides=2, name="stem")(x))
        coefficients = CoefficientPredictor((8,), 3, CoefficientSpec(hidden_features=2), name="predictor")(x)[0]
        x = DynamicConv(8, (3, 3), 2, feature_group_count=4, group_size=3, use_bias=False, name="grouped")(
            x, coefficients
        )
        x = DynamicConv(6, (1, 1), spec=CoefficientSpec(2, coefficient_scope="layer"), name="pointwise")(x)
        return nn.Dense(5, name="classifier")(x.mean((1, 2)))


# For one image of 16x12: name, kind, output shape, convolution, fusion, predictor, classifier, parameters.
EXPECTED = [
    ("stem", "static 3x3", (8, 6, 8), 3 * 3 * 3 * 8 * 8 * 6, 0, 0, 0, 3 * 3 * 3 * 8 + 8),
    ("predictor/hidden", "predictor", (2,), 0, 0, 8 * 2, 0, 8 * 2 + 2),
    ("predictor/coefficients", "predictor", (24,), 0, 0, 2 * 24, 0, 2 * 24 + 24),
    ("grouped", "dynamic 3x3", (4, 3, 8), 3 * 3 * 2 * 8 * 4 * 3, 3 * 3 * 3 * 2 * 8, 0, 0, 3 * 3 * 3 * 2 * 8),
    ("pointwise/predictor/coefficients", "predictor", (2,), 0, 0, 8 * 2, 0, 8 * 2 + 2),
    ("pointwise", "dynamic 1x1", (4, 3, 6), 8 * 6 * 4 * 3, 2 * 8 * 6, 0, 0, 2 * 8 * 6 + 6),
    ("classifier", "classifier", (5,), 0, 0, 0, 6 * 5, 6 * 5 + 5),
]


def test_tiny_network_by_hand():
    count = count_macs(Tiny(), (16, 12, 3))
    assert [tuple(row) for row in count.rows] == EXPECTED
    assert count.parameters == sum(row[-1] for row in EXPECTED) + 2 * 8  # BatchNorm's scale and bias
    parts = count.convolution, count.fusion, count.predictor, count.classifier
    assert parts == tuple(sum(row[i] for row in EXPECTED) for i in (3, 4, 5, 6))
    assert count.total == sum(parts)
    assert count.rows[3].total == 3 * 3 * 2 * 8 * (4 * 3 + 3)


class Plain(nn.Module):
    """A network that is called with images alone."""

    @nn.compact
    def __call__(self, x):
        return Tiny()(x, train=False)


class WithTraining(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool):
        return Tiny()(x, train=training)


class WithDeterministic(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic: bool):
        return Tiny()(x, train=not deterministic)


class WithKeywords(nn.Module):
    @nn.compact
    def __call__(self, x, **options):
        return Tiny()(x, **options)


@pytest.mark.parametrize(
    "network", [Plain(), WithTraining(), WithDeterministic(), WithKeywords(), nn.Sequential([Plain(), nn.relu])]
)
def test_a_network_is_called_with_the_keywords_that_it_takes(network):
    count = count_macs(network, (16, 12, 3))
    assert [tuple(row)[1:] for row in count.rows] == [row[1:] for row in EXPECTED]
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 12, 3)), **call_options(network))
    assert len(predicted_coefficients(network, variables, jnp.zeros((2, 16, 12, 3)))) == 2
    assert len(list_convolutions(network, variables, (16, 12, 3))) == 3
    assert [name.rpartition("/")[2] for name in list_layers(network, variables, (16, 12, 3))][-1] == "pointwise"


class WithMask(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return Tiny()(x * mask, train=False)


def test_a_network_that_needs_more_is_refused():
    with pytest.raises(UserError, match=r"images and train=False, training=False or deterministic=True alone.*'mask'"):
        count_macs(WithMask(), (16, 12, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_rows_and_normalisation_hold_all_parameters(name):
    model = smallest(name)
    count = count_macs(model, (64, 64, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    # BatchNorm has as many parameters as statistics, and nothing else has statistics.
    normalisation = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    assert sum(row.parameters for row in count.rows) + normalisation == count.parameters


@pytest.mark.slow
def test_macs_grow_with_the_image_where_they_should():
    small, large = [count_macs(create_model("dy_mobile", width=0.25), (size, size, 3)) for size in (64, 128)]
    assert large.convolution == 4 * small.convolution
    assert (large.fusion, large.predictor, large.classifier) == (small.fusion, small.predictor, small.classifier)
