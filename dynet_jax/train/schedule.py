"""Learning rates by step: a warm-up, followed by a named schedule of optax or of this file."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynet_jax.errors import UserError
from dynet_jax.train import by_name

POLY_POWER, POLY_END = 0.9, 1e-4  # the values of mmsegmentation


def poly(
    init_value: float, transition_steps: int, power: float = POLY_POWER, end_value: float | None = None
) -> optax.Schedule:
    """Returns the schedule (1 - progress)^power, from the initial rate to `end_value`.

    The end defaults to 1e-4, or to 0 if the rate is smaller, as in mmsegmentation.
    """
    if end_value is None:
        end_value = POLY_END if init_value > POLY_END else 0.0
    return optax.polynomial_schedule(init_value, end_value, power, transition_steps)


def wsd(
    init_value: float, transition_steps: int, decay_fraction: float = 0.2, end_value: float = 0.0
) -> optax.Schedule:
    """Returns a constant schedule that is linear to `end_value` in the last `decay_fraction` of the steps.

    This is "warm-up, stable, decay" after the warm-up.

    >>> schedule = wsd(1.0, 100, decay_fraction=0.5)
    >>> [float(schedule(step)) for step in (0, 50, 75, 100)]
    [1.0, 1.0, 0.5, 0.0]
    """
    if not 0 < decay_fraction <= 1:
        raise UserError(f"schedule_arguments.decay_fraction must be in (0, 1], not {decay_fraction}")
    decay_steps = max(1, round(decay_fraction * transition_steps))
    return optax.linear_schedule(init_value, end_value, decay_steps, transition_steps - decay_steps)


def _is_schedule(function: Any) -> bool:
    names = inspect.signature(function).parameters if inspect.isfunction(function) else {}
    return not {"value", "init_value", "peak_value"}.isdisjoint(names)


SCHEDULES = {
    **{name: function for name, function in vars(optax.schedules).items() if _is_schedule(function)},
    **{"cosine": optax.warmup_cosine_decay_schedule, "poly": poly, "wsd": wsd},
}


def make_schedule(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    *,
    name: str = "cosine",
    arguments: Mapping[str, Any] | None = None,
) -> optax.Schedule:
    """Returns a schedule that is linear from 0 in `warmup_steps` and then one of SCHEDULES, by default a cosine to 0.

    `learning_rate` is the initial or the peak value of the schedule, whose steps are those after the warm-up;
    `arguments` are its other arguments, or override numbers of steps. Raises UserError for an unknown name or argument,
    a value that cannot be used, or a warm-up before a schedule that has its own.

    >>> schedule = make_schedule(0.8, warmup_steps=10, total_steps=110)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.4, 0.8, 0.4, 0.0]
    """
    function = by_name.look_up("schedule", name, SCHEDULES)
    parameters = inspect.signature(function).parameters
    warms_up, has_peak = "warmup_steps" in parameters, "peak_value" in parameters
    if has_peak and not warms_up and warmup_steps > 0:
        raise UserError(f"schedule {name!r} rises by itself; set warmup_epochs=0")
    rates = {"peak_value": learning_rate, "init_value": 0.0} if has_peak else {}
    rates = rates or {"init_value": learning_rate, "value": learning_rate}
    after = total_steps - warmup_steps
    steps = {"warmup_steps": warmup_steps, "decay_steps": total_steps if warms_up else after, "transition_steps": after}
    decided = {key: "learning_rate" for key in rates if key != "init_value" or not has_peak}
    chosen = {key: _with_steps(value) for key, value in (arguments or {}).items()}
    decided["warmup_steps"] = "warmup_epochs"
    schedule = by_name.call("schedule", name, function, chosen, filled={**rates, **steps}, decided=decided)
    by_name.attempt("schedule", name, lambda: jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32)))
    if has_peak:
        return schedule
    warmup = optax.linear_schedule(0.0, learning_rate, max(1, warmup_steps))
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def _with_steps(value: Any) -> Any:
    """Returns a value with numeric keys as ints: JSON has only text keys, so {"1000": 0.1} means {1000: 0.1}."""
    return {int(key) if key.isdecimal() else key: v for key, v in value.items()} if isinstance(value, dict) else value


def make_temperature_schedule(start: float, end: float, steps: int) -> optax.Schedule:
    """Returns a schedule linear from `start` to `end` in `steps` steps; DY-CNN uses 30, 1 and ten epochs.

    >>> schedule = make_temperature_schedule(30.0, 1.0, 10)
    >>> [float(schedule(step)) for step in (0, 5, 10, 11)]
    [30.0, 15.5, 1.0, 1.0]
    """
    return optax.linear_schedule(start, end, max(1, steps))
