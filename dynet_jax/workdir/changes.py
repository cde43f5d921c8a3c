"""What may change when a run goes on, and what an evaluation may change: as the keys are declared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynet_jax.config.keys import KEYS
from dynet_jax.config.schema import EVALUATION
from dynet_jax.errors import UserError

# What may change when a run goes on without being asked: it does not change what is trained. Scores before and after a
# change of how the test set is evaluated, or of its images, are not comparable.
FREE = {key.name for key in KEYS.values() if key.free} | {"test images"}
# What an evaluation may change.
FREE_IN_EVALUATION = {key.name for key in KEYS.values() if key.free == EVALUATION}
# What may not change though it is asked for, and why.
FIXED = {key.name: key.fixed for key in KEYS.values() if key.fixed}


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Of two flattened configurations, sorted. JSON has lists where a configuration has tuples: they are equal.

    >>> changed_keys({"a": (1, 2), "b": 1}, {"a": [1, 2], "c": 1})
    ['b', 'c']
    """

    def plain(value):
        return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value

    return [key for key in sorted({**before, **now}) if plain(before.get(key)) != plain(now.get(key))]


def check_changes(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, allowed: bool) -> list[str]:
    """Says what has changed. Returns those of the keys that are not free to change.

    Raises UserError for such a key unless it is `allowed`, and for one of FIXED in any case.
    """
    changed = changed_keys(before, now)
    asked = [key for key in changed if key not in FREE]
    texts = "; ".join(f"{key}={before.get(key)!r}, not {now.get(key)!r}" for key in asked)
    fixed = "; ".join(f"{key}={before.get(key)!r} has to stay: {FIXED[key]}" for key in asked if key in FIXED)
    if fixed:
        raise UserError(
            f"{workdir} was trained with {texts}. Use another --workdir, which --init_from={workdir} gives these "
            f"parameters, or the configuration it began with; {fixed}"
        )
    if asked and not allowed:
        raise UserError(
            f"{workdir} was trained with {texts}. Use another --workdir, or the configuration it began with, or "
            "--allow_config_change to go on with this one"
        )
    for key in changed:
        print(f"the configuration has changed: {key} was {before.get(key)!r} and is {now.get(key)!r}", flush=True)
    return asked


def check_progress(workdir: Path, step: int, steps_per_epoch: int, total_steps: int, changed: list[str]) -> None:
    """Says which part of the run is behind a step, if keys have changed that decide what is trained.

    Raises UserError if that is all of it, as nothing would be trained with what has changed, or more than there is. A
    run that has ended and is started again as it was is neither.
    """
    if step > total_steps or (changed and step == total_steps):
        cause = f" with the changed {', '.join(changed)}" if changed else ""
        raise UserError(
            f"nothing would be trained{cause}: {workdir} is at step {step}, and the run has {total_steps}. Use "
            f"--config.epochs={step // steps_per_epoch + 1} or more and --allow_config_change to go on, or another "
            f"--workdir, which --init_from={workdir} gives these parameters"
        )
    if changed:
        print(f"{workdir} is at step {step}, {100 * step / total_steps:.0f} % of the run as it is now", flush=True)
