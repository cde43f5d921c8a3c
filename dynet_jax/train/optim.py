"""The paper's optimiser: SGD with momentum, linear warm-up, cosine decay (or poly's), and weight decay.

Parts of a network may have learning rates and decays of their own, by patterns on the names of parameters.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import ml_collections
import optax

from dynet_jax.config.variants import PREDICTORS
from dynet_jax.errors import UserError, suggest

ByPattern: TypeAlias = Sequence[tuple[str, float]]  # regular expressions on names of parameters, and a number for each

DECAYED = {
    # "Weight decay 5e-5" says no more than that. Common practice spares one-dimensional parameters.
    "kernels": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    "all": lambda params: jax.tree.map(lambda p: True, params),
}


POLY_POWER, POLY_END = 0.9, 1e-4  # mmsegmentation's


def make_schedule(
    learning_rate: float, warmup_steps: int, total_steps: int, *, decay: str = "cosine"
) -> optax.Schedule:
    """Linear from 0 in `warmup_steps`, then a cosine to 0 at `total_steps`.

    With decay='poly' instead (1 - progress)^0.9, from the rate to 1e-4 (or to 0, if the rate is less), as
    mmsegmentation has it. Raises UserError for another decay.

    >>> schedule = make_schedule(0.8, warmup_steps=10, total_steps=110)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.4, 0.8, 0.4, 0.0]
    """
    if decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total_steps)
    if decay != "poly":
        raise UserError(f"unknown schedule {decay!r}; {suggest(decay, ('cosine', 'poly'))}")
    end = POLY_END if learning_rate > POLY_END else 0.0
    poly = optax.polynomial_schedule(learning_rate, end, POLY_POWER, total_steps - warmup_steps)
    warmup = optax.linear_schedule(0.0, learning_rate, max(1, warmup_steps))
    return optax.join_schedules([warmup, poly], [warmup_steps])


def make_temperature_schedule(start: float, end: float, steps: int) -> optax.Schedule:
    """Linear from `start` to `end` in so many steps, and `end` from there on: DY-CNN's, with 30, 1 and ten epochs.

    >>> schedule = make_temperature_schedule(30.0, 1.0, 10)
    >>> [float(schedule(step)) for step in (0, 5, 10, 11)]
    [30.0, 15.5, 1.0, 1.0]
    """
    return optax.linear_schedule(start, end, max(1, steps))


def make_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    decay_parameters: str,
    clip_norm: float | None = None,
    learning_rate_factors: ByPattern = (),
    weight_decays: ByPattern = (),
) -> optax.GradientTransformation:
    """SGD as PyTorch and Caffe have it: the decay is added to the gradient, before the momentum.

    `clip_norm` scales a longer gradient (of all parameters, without the decay) down to that norm.

    `learning_rate_factors` and `weight_decays` are pairs (regular expression, number). A parameter whose name, such as
    'stage1_block1/predictor/coefficients/kernel', has a match takes the number of the first expression that has one:
    its learning rate is multiplied by the factor, or the decay takes the place of `weight_decay`. As the decay is part
    of what the learning rate multiplies, a factor of 100 decays 100 times as fast. Which parameters decay at all stays
    with `decay_parameters`.

    Raises UserError if `decay_parameters` is not 'kernels' or 'all', and, when the optimiser is given parameters, if an
    expression matches none of them. Only `PREDICTORS` may: a static network can have the recipe of its dynamic twin.
    """
    if decay_parameters not in DECAYED:
        raise UserError(f"unknown decay_parameters {decay_parameters!r}; {suggest(decay_parameters, DECAYED)}")
    return optax.chain(
        # The identity keeps the state's layout, so that clipping can be turned on when a run goes on.
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        _decay(weight_decay, weight_decays, DECAYED[decay_parameters]),
        _scaled(optax.sgd(schedule, momentum=momentum), learning_rate_factors),
    )


def _decay(weight_decay: float, by_pattern: ByPattern, decays: Callable) -> optax.GradientTransformation:
    """Adds the decay of each parameter."""
    plain = optax.add_decayed_weights(weight_decay, mask=decays)

    def update(updates, state, params):
        rates = _by_pattern("weight_decays", by_pattern, weight_decay, params)
        decayed = jax.tree.map(lambda u, p, rate, on: u + rate * p if on else u, updates, params, rates, decays(params))
        return decayed, state

    return _laid_out_as(plain, update, "weight_decays", by_pattern) if by_pattern else plain


def _scaled(inner: optax.GradientTransformation, by_pattern: ByPattern) -> optax.GradientTransformation:
    """The updates of `inner` times the factor of each parameter."""

    def update(updates, state, params):
        updates, state = inner.update(updates, state, params)
        factors = _by_pattern("learning_rate_factors", by_pattern, 1.0, params)
        return jax.tree.map(lambda value, factor: factor * value, updates, factors), state

    return _laid_out_as(inner, update, "learning_rate_factors", by_pattern) if by_pattern else inner


def _laid_out_as(plain: optax.GradientTransformation, update: Callable, key: str, by_pattern: ByPattern):
    """`update` with the state of `plain`, so that patterns can be set or removed when a run goes on."""

    def init(params):
        _by_pattern(key, by_pattern, 1.0, params)  # a mistake is found before the first step
        return plain.init(params)

    return optax.GradientTransformation(init, update)


def explain_patterns(config: ml_collections.ConfigDict, params, *, is_dynamic: bool) -> Iterator[str]:
    """A line for each pair of `learning_rate_factors` and `weight_decays`: how many parameters take its number.

    Raises UserError for a pair that none takes: because earlier pairs take all, or those that it matches do not decay,
    or it is `PREDICTORS` and a dynamic network's predictors have another name.
    """
    names = _names(params)
    for key in ("learning_rate_factors", "weight_decays"):
        counts = DECAYED[config.decay_parameters](params) if key == "weight_decays" else jax.tree.map(bool, names)
        firsts = jax.tree.map(lambda name, on, key=key: on and _first_match(name, config[key]), names, counts)
        taken = jax.tree.leaves(firsts, is_leaf=lambda leaf: isinstance(leaf, tuple))
        for pattern, number in config[key]:
            arrays = taken.count((pattern, number))
            if arrays == 0 and (pattern != PREDICTORS or is_dynamic):
                what = "earlier patterns take all that it matches, or " if len(config[key]) > 1 else ""
                if key == "weight_decays":
                    what += f"what it matches does not decay with decay_parameters={config.decay_parameters!r}, or "
                raise UserError(f"{key}: no parameter takes {number:g} from {pattern!r}; {what}it matches none")
            which = (
                f"{arrays} arrays, by {pattern!r}" if arrays else f"{pattern!r}, which a static network does not have"
            )
            yield f"{key}: {number:g} for {which}"


def _by_pattern(key: str, by_pattern: ByPattern, default: float, params):
    """The number of every parameter. Raises UserError for an expression that matches none."""
    names = _names(params)
    for pattern, _ in by_pattern:
        if pattern != PREDICTORS and not any(re.search(pattern, name) for name in jax.tree.leaves(names)):
            some = ", ".join(sorted(jax.tree.leaves(names), key=lambda name: (PREDICTORS not in name, name))[:2])
            raise UserError(f"{key} has {pattern!r}, which no parameter's name matches; names are like {some}")
    return jax.tree.map(lambda name: (_first_match(name, by_pattern) or (None, default))[1], names)


def _first_match(name: str, by_pattern: ByPattern) -> tuple[str, float] | None:
    return next((tuple(pair) for pair in by_pattern if re.search(pair[0], name)), None)


def _names(params):
    """The name of every parameter in its place, like 'stage1_block1/predictor/coefficients/kernel'."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
