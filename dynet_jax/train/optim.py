"""The paper's optimiser: SGD with momentum, linear warm-up, cosine decay (or poly's), and weight decay."""

import jax
import optax

from dynet_jax.errors import UserError, suggest

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


def make_optimizer(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    decay_parameters: str,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """SGD as PyTorch and Caffe have it: the decay is added to the gradient, before the momentum.

    `clip_norm` scales a longer gradient (of all parameters, without the decay) down to that norm.

    Raises UserError if `decay_parameters` is not 'kernels' or 'all'.
    """
    if decay_parameters not in DECAYED:
        raise UserError(f"unknown decay_parameters {decay_parameters!r}; {suggest(decay_parameters, DECAYED)}")
    return optax.chain(
        # The identity keeps the state's layout, so that clipping can be turned on when a run goes on.
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.add_decayed_weights(weight_decay, mask=DECAYED[decay_parameters]),
        optax.sgd(schedule, momentum=momentum),
    )
