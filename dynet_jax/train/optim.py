"""Optimisers of optax by name, with weight decay and clipping; the paper's is SGD with momentum.

Parts of a network may have their own learning rates and decays, by patterns on the names of parameters.
"""

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dynet_jax.errors import UserError, suggest
from dynet_jax.models.registry import PREDICTORS
from dynet_jax.train import by_name

ByPattern: TypeAlias = Sequence[tuple[str, float]]  # pairs of a regular expression on parameter names and a number

DECAYED = {
    # The paper only says "Weight decay 5e-5". Common practice spares one-dimensional parameters.
    "kernels": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    "all": lambda params: jax.tree.map(lambda p: True, params),
}


OPTIMIZERS = {
    name: function
    for name, function in vars(optax).items()
    if inspect.isfunction(function)
    and "learning_rate" in inspect.signature(function).parameters
    and not name.startswith(("_", "scale_by_"))
}
OWN_DECAY = ("weight_decay", "weight_decay_rate")  # arguments of optimisers that apply a decay themselves
DECIDED = {"learning_rate": "learning_rate and schedule", **dict.fromkeys(OWN_DECAY, "weight_decay")}
DECIDED |= dict.fromkeys(("mask", "weight_decay_mask"), "decay_parameters and weight_decays")


def make_optimizer(
    schedule: optax.Schedule,
    name: str = "sgd",
    arguments: Mapping[str, Any] | None = None,
    *,
    weight_decay: float,
    decay_parameters: str,
    clip_norm: float | None = None,
    learning_rate_factors: ByPattern = (),
    weight_decays: ByPattern = (),
) -> optax.GradientTransformation:
    """Returns `optax.NAME(schedule, **arguments)`, with its own decay if it has one (`adamw`, `lamb`, `lion`).

    For others, such as `sgd`, the decay is added to the gradient before the momentum, as in PyTorch and Caffe.

    `clip_norm` scales a larger gradient (of all parameters, without the decay) down to that norm.
    `learning_rate_factors` and `weight_decays` are pairs (regular expression, number). A parameter whose name, such as
    'stage1_block1/predictor/coefficients/kernel', has a match uses the number of the first matching expression: its
    updates are multiplied by the factor, or the decay replaces `weight_decay`. The learning rate multiplies the decay
    as well, so a factor of 100 also decays 100 times as fast. `decay_parameters` still determines which parameters
    decay at all.

    Raises UserError for an unknown optimiser or argument; if `decay_parameters` is not 'kernels' or 'all'; and, when
    the optimiser is given parameters, if an expression matches none of them. Only `PREDICTORS` may match none, so that
    a static network can have the recipe of its dynamic twin.
    """
    if decay_parameters not in DECAYED:
        raise UserError(f"unknown decay_parameters {decay_parameters!r}; {suggest(decay_parameters, DECAYED)}")
    make = functools.partial(_make, name, by_name.look_up("optimizer", name, OPTIMIZERS), schedule, arguments or {})
    # The identity keeps the layout of the state, so that clipping can be turned on when a run is resumed.
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    decays = DECAYED[decay_parameters]
    own = next((key for key in OWN_DECAY if key in inspect.signature(OPTIMIZERS[name]).parameters), None)
    if own is None:
        decay = _decay(weight_decay, weight_decays, decays)
        return optax.chain(clip, decay, _scaled(make(), learning_rate_factors))
    # One optimiser for parameters that do not decay, one for those that do, and one for each pattern.
    rates = (0.0, weight_decay, *(number for _, number in weight_decays))
    groups: dict[Hashable, optax.GradientTransformation] = {
        str(group): make({own: rate}) for group, rate in enumerate(rates)
    }
    labels = functools.partial(_groups, by_pattern=weight_decays, decays=decays)
    return optax.chain(clip, _scaled(optax.partition(groups, labels), learning_rate_factors))


def with_learning_rate(
    make: Callable[[optax.Schedule], optax.GradientTransformation], schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Returns `make(schedule)`, whose update also takes `learning_rate`, a scalar to use instead of the schedule's.

    This lets a training step take the learning rate as an operand. The state is the same either way.
    """
    scheduled = make(schedule)

    def update(updates, state, params=None, *, learning_rate=None, **others):  # optax passes them all
        inner = scheduled if learning_rate is None else make(lambda count: learning_rate)
        return inner.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(scheduled.init, update)


def _make(name: str, function: Callable, schedule, arguments, decay: Mapping[str, float] | None = None):
    """Returns the optimiser, tried on a small tree. Raises UserError if it needs more than gradients and parameters."""
    filled = {"learning_rate": schedule, **(decay or {})}
    optimizer = by_name.call("optimizer", name, function, arguments, filled=filled, decided=DECIDED)
    params = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}
    step = lambda params: optimizer.update(params, optimizer.init(params), params)  # noqa: E731
    by_name.attempt("optimizer", name, lambda: jax.eval_shape(step, params))
    return optimizer


def _groups(params, by_pattern: ByPattern, decays: Callable):
    """Returns the key of each parameter's optimiser: '0' does not decay, '1' does, '2' is that of the first pattern."""
    groups = [(pattern, group) for group, (pattern, _) in enumerate(by_pattern, start=2)]
    chosen = _by_pattern("weight_decays", groups, 1, params)
    return jax.tree.map(lambda group, on: str(group) if on else "0", chosen, decays(params))


def _decay(weight_decay: float, by_pattern: ByPattern, decays: Callable) -> optax.GradientTransformation:
    """Returns a transformation that adds the decay of each parameter."""
    plain = optax.add_decayed_weights(weight_decay, mask=decays)

    def update(updates, state, params):
        rates = _by_pattern("weight_decays", by_pattern, weight_decay, params)
        decayed = jax.tree.map(lambda u, p, rate, on: u + rate * p if on else u, updates, params, rates, decays(params))
        return decayed, state

    return _laid_out_as(plain, update, "weight_decays", by_pattern) if by_pattern else plain


def _scaled(inner: optax.GradientTransformation, by_pattern: ByPattern) -> optax.GradientTransformation:
    """Returns `inner` with its updates multiplied by the factor of each parameter."""

    def update(updates, state, params):
        updates, state = inner.update(updates, state, params)
        factors = _by_pattern("learning_rate_factors", by_pattern, 1.0, params)
        return jax.tree.map(lambda value, factor: factor * value, updates, factors), state

    return _laid_out_as(inner, update, "learning_rate_factors", by_pattern) if by_pattern else inner


def _laid_out_as(plain: optax.GradientTransformation, update: Callable, key: str, by_pattern: ByPattern):
    """Returns `update` with the state of `plain`, so that patterns can be set or removed when a run is resumed."""

    def init(params):
        _by_pattern(key, by_pattern, 1.0, params)  # finds a mistake before the first step
        return plain.init(params)

    return optax.GradientTransformation(init, update)


def explain_patterns(config: ml_collections.ConfigDict, params, *, is_dynamic: bool) -> Iterator[str]:
    """Yields a line for each pair of `learning_rate_factors` and `weight_decays`: how many parameters use its number.

    Raises UserError for a pair that no parameter uses: earlier pairs match all of them, or the matching ones do not
    decay, or it is `PREDICTORS` and a dynamic network's predictors have another name.
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
    """Returns the number of every parameter. Raises UserError for an expression that matches none."""
    names = _names(params)
    for pattern, _ in by_pattern:
        if pattern != PREDICTORS and not any(re.search(pattern, name) for name in jax.tree.leaves(names)):
            some = ", ".join(sorted(jax.tree.leaves(names), key=lambda name: (PREDICTORS not in name, name))[:2])
            raise UserError(f"{key} has {pattern!r}, which no parameter's name matches; names are like {some}")
    return jax.tree.map(lambda name: (_first_match(name, by_pattern) or (None, default))[1], names)


def _first_match(name: str, by_pattern: ByPattern) -> tuple[str, float] | None:
    return next((tuple(pair) for pair in by_pattern if re.search(pair[0], name)), None)


def _names(params):
    """Returns a tree of parameter names, such as 'stage1_block1/predictor/coefficients/kernel'."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
