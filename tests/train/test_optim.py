"""The schedule against its formula, and the optimiser against a loop in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynet_jax.errors import UserError
from dynet_jax.train.optim import make_optimizer
from dynet_jax.train.schedule import make_schedule


@pytest.mark.parametrize(("warmup", "total"), [(10, 110), (0, 40), (3, 4)])
def test_schedule(warmup, total):
    schedule = make_schedule(0.8, warmup_steps=warmup, total_steps=total)
    for step in range(total + 3):  # it stays at 0 after the end
        done = min(1.0, (step - warmup) / (total - warmup))
        expected = 0.8 * step / warmup if step < warmup else 0.8 * (1 + math.cos(math.pi * done)) / 2
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6), step


PARAMETERS = {
    "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "norm": {"scale": (4,), "bias": (4,)},
    "dynamic": {"kernel": (6, 1, 1, 2, 4)},
    "dense": {"kernel": (4, 5), "bias": (5,)},
}


@pytest.mark.parametrize("decay_parameters", ["kernels", "all"])
def test_three_steps(decay_parameters):
    """SGD as Caffe and PyTorch have it: v = momentum v + (gradient + decay w); w = w - rate v."""
    rates, momentum, decay = [0.1, 0.5, 0.2], 0.9, 0.05
    schedule = optax.piecewise_constant_schedule(0.1, {1: 5.0, 2: 0.4})
    optimizer = make_optimizer(
        schedule, arguments={"momentum": momentum}, weight_decay=decay, decay_parameters=decay_parameters
    )

    rng = np.random.default_rng(0)
    draw = lambda: jax.tree.map(  # noqa: E731
        lambda shape: rng.normal(size=shape).astype(np.float32),
        PARAMETERS,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    start, gradients = draw(), [draw() for _ in rates]

    params, state = jax.tree.map(jnp.asarray, start), optimizer.init(start)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)

    for layer, parameters in PARAMETERS.items():
        for name in parameters:
            decayed = decay if decay_parameters == "all" or name == "kernel" else 0.0
            w, v = start[layer][name].astype(float), 0.0
            for rate, gradient in zip(rates, gradients):
                v = momentum * v + gradient[layer][name] + decayed * w
                w = w - rate * v
            np.testing.assert_allclose(params[layer][name], w, rtol=1e-5, atol=1e-6, err_msg=f"{layer}/{name}")


def test_unknown_decay_parameters():
    with pytest.raises(UserError, match=r"unknown decay_parameters 'kernel'; did you mean kernels\?"):
        make_optimizer(make_schedule(0.1, 0, 1), weight_decay=0.1, decay_parameters="kernel")


@pytest.mark.parametrize(("clip_norm", "factor"), [(None, 1.0), (1.0, 1 / 5), (10.0, 1.0)])
def test_clipping_scales_the_whole_gradient(clip_norm, factor):
    schedule = make_schedule(1.0, 0, 10)
    optimizer = make_optimizer(schedule, weight_decay=0.0, decay_parameters="kernels", clip_norm=clip_norm)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    updates, _ = optimizer.update({"a": jnp.full(1, 3.0), "b": jnp.full(1, -4.0)}, optimizer.init(params), params)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-3 * factor, 4 * factor], rtol=1e-6)


def test_poly_decay():
    """mmsegmentation's: (rate - end) (1 - progress)^0.9 + end, after a linear warm-up."""
    schedule = make_schedule(0.1, warmup_steps=10, total_steps=110, name="poly")
    for step, expected in ((0, 0.0), (5, 0.05), (10, 0.1), (60, (0.1 - 1e-4) * 0.5**0.9 + 1e-4), (110, 1e-4)):
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)
    assert float(make_schedule(0.01, 0, 100, name="poly")(0)) == pytest.approx(0.01)
    with pytest.raises(UserError, match="unknown schedule 'cosin'; did you mean cosine"):
        make_schedule(0.1, 0, 10, name="cosin")


@pytest.mark.parametrize("decay_parameters", ["kernels", "all"])
def test_parts_of_a_network_have_rates_and_decays_of_their_own(decay_parameters):
    """v = momentum v + (gradient + decay w); w = w - factor rate v; the first pattern that matches counts."""
    rate, momentum, decay = 0.1, 0.9, 0.05
    factors, decays = [["dense/k", 100.0], ["den", 7.0], ["^norm", 0.0]], (("conv|dense", 0.3), ("dynamic/kernel$", 0))
    optimizer = make_optimizer(
        optax.constant_schedule(rate),
        arguments={"momentum": momentum},
        weight_decay=decay,
        decay_parameters=decay_parameters,
        learning_rate_factors=factors,
        weight_decays=decays,
    )
    start, gradients = drawn(0), [drawn(seed) for seed in (1, 2)]
    params, state = jax.tree.map(jnp.asarray, start), optimizer.init(start)
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)

    factor = {"dense/kernel": 100.0, "dense/bias": 7.0, "norm/scale": 0.0, "norm/bias": 0.0}
    own_decay = {"conv": 0.3, "dense": 0.3, "dynamic": 0.0, "norm": decay}
    for layer, parameters in PARAMETERS.items():
        for name in parameters:
            decayed = own_decay[layer] if decay_parameters == "all" or name == "kernel" else 0.0
            w, v = start[layer][name].astype(float), 0.0
            for gradient in gradients:
                v = momentum * v + gradient[layer][name] + decayed * w
                w = w - factor.get(f"{layer}/{name}", 1.0) * rate * v
            np.testing.assert_allclose(params[layer][name], w, rtol=1e-5, atol=1e-5, err_msg=f"{layer}/{name}")


def test_patterns_leave_the_state_as_it_is_laid_out():
    """They can therefore be set, changed and removed when a run is resumed."""
    options = {"arguments": {"momentum": 0.9}, "weight_decay": 0.1, "decay_parameters": "kernels"}
    plain = make_optimizer(optax.constant_schedule(0.1), **options)
    patterns = {"learning_rate_factors": [("conv", 2.0)], "weight_decays": [("conv", 0.0)]}
    other = make_optimizer(optax.constant_schedule(0.1), **options, **patterns)
    assert jax.tree.structure(plain.init(drawn(0))) == jax.tree.structure(other.init(drawn(0)))


@pytest.mark.parametrize("key", ["learning_rate_factors", "weight_decays"])
def test_a_pattern_that_matches_nothing_is_a_mistake(key):
    options = {
        "weight_decay": 0.1,
        "decay_parameters": "kernels",
        key: [["conv", 1.0], ["predctor", 2.0]],
    }
    with pytest.raises(UserError, match=f"{key} has 'predctor', which no parameter's name matches; .*like conv/bias"):
        make_optimizer(optax.constant_schedule(0.1), **options).init(drawn(0))


def test_a_static_network_may_have_the_recipe_of_a_dynamic_one():
    options = {"arguments": {"momentum": 0.9}, "weight_decay": 0.1, "decay_parameters": "kernels"}
    patterns = {"learning_rate_factors": [["predictor", 100.0]], "weight_decays": [["predictor", 0.0]]}
    plain, other = (make_optimizer(optax.constant_schedule(0.1), **options, **more) for more in ({}, patterns))
    (updates, _), (wanted, _) = (o.update(drawn(1), o.init(drawn(0)), drawn(0)) for o in (other, plain))
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)


def drawn(seed):
    rng = np.random.default_rng(seed)
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), PARAMETERS, is_leaf=is_shape)
