"""The paper's optimiser: SGD with momentum, linear warm-up, cosine decay (or poly's), and weight decay.

Parts of a network may have learning rates and decays of their own, by patterns on the names of parameters.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import optax

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


def make_temperature_schedule(
    start: float | None, end: float, decay_steps: int
) -> optax.Schedule | None:
    """Linear from `start` to `end` in `decay_steps`, as DY-CNN has it, and `end` from there on; None without a start."""
    return None if start is None else optax.linear_schedule(start, end, max(1, decay_steps))


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
    expression matches none of them.
    """
    if decay_parameters not in DECAYED:
        raise UserError(f"unknown decay_parameters {decay_parameters!r}; {suggest(decay_parameters, DECAYED)}")

    def decayed(pattern):
        chosen, decays = _takes("weight_decays", weight_decays, pattern), DECAYED[decay_parameters]
        return lambda params: jax.tree.map(operator.and_, chosen(params), decays(params))

    by_pattern = [optax.add_decayed_weights(decay, mask=decayed(pattern)) for pattern, decay in weight_decays]
    factors = [
        optax.masked(optax.scale(factor), _takes("learning_rate_factors", learning_rate_factors, pattern))
        for pattern, factor in learning_rate_factors
    ]
    decay = optax.add_decayed_weights(weight_decay, mask=decayed(None))
    return optax.chain(
        # The identity keeps the state's layout, so that clipping can be turned on when a run goes on.
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.chain(decay, *by_pattern) if by_pattern else decay,
        optax.sgd(schedule, momentum=momentum),
        *factors,
    )


def _takes(key: str, by_pattern: ByPattern, pattern: str | None) -> Callable:
    """params -> for each whether `pattern` is the first of `by_pattern` that its name matches; None: no one is."""

    def mask(params):
        def first(path, _):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return next((p for p, _ in by_pattern if re.search(p, name)), None)

        firsts = jax.tree_util.tree_map_with_path(first, params)
        found = set(jax.tree.leaves(firsts, is_leaf=lambda leaf: leaf is None))
        for p, _ in by_pattern:
            if p not in found:
                names = sorted({jax.tree_util.keystr(path[:1], simple=True) for path, _ in jax.tree.leaves_with_path(params)})
                raise UserError(
                    f"no parameter of the network takes its {key} from {p!r}; parameters have names like "
                    f"{', '.join(names[:4])}/..."
                )
        return jax.tree.map(lambda p: p == pattern, firsts, is_leaf=lambda leaf: leaf is None)

    return mask
