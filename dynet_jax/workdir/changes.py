"""The keys that may change when a run is resumed, and in an evaluation, as declared in the configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynet_jax.config.keys import KEYS
from dynet_jax.config.schema import EVALUATION
from dynet_jax.errors import UserError

# Keys that may change freely when a run is resumed, because they do not change what is trained. If the test images or
# their evaluation change, scores before and after are not comparable.
FREE = {key.name for key in KEYS.values() if key.free} | {"test images"}
# Keys that an evaluation may change.
FREE_IN_EVALUATION = {key.name for key in KEYS.values() if key.free == EVALUATION}
# Keys that may not change even on request, and the reason.
FIXED = {key.name: key.fixed for key in KEYS.values() if key.fixed}


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the sorted keys in which two flattened configurations differ; JSON's lists equal tuples.

    >>> changed_keys({"a": (1, 2), "b": 1}, {"a": [1, 2], "c": 1})
    ['b', 'c']
    """

    def plain(value):
        return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value

    return [key for key in sorted({**before, **now}) if plain(before.get(key)) != plain(now.get(key))]


def check_changes(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, allowed: bool) -> list[str]:
    """Prints what has changed. Returns the changed keys that are not free to change.

    Raises UserError for such a key unless changes are `allowed`, and for a key of FIXED in any case.
    """
    changed = changed_keys(before, now)
    asked = [key for key in changed if key not in FREE]
    texts = "; ".join(f"{key}={before.get(key)!r}, not {now.get(key)!r}" for key in asked)
    fixed = "; ".join(f"{key}={before.get(key)!r} has to stay: {FIXED[key]}" for key in asked if key in FIXED)
    if fixed:
        raise UserError(
            f"{workdir} was trained with {texts}. Use another --workdir, which --init_from={workdir} gives these "
            f"parameters, or the configuration it was started with; {fixed}"
        )
    if asked and not allowed:
        raise UserError(
            f"{workdir} was trained with {texts}. Use another --workdir, or the configuration it was started with, or "
            "--allow_config_change to continue with this one"
        )
    for key in changed:
        print(f"the configuration has changed: {key} was {before.get(key)!r} and is {now.get(key)!r}", flush=True)
    return asked


def check_progress(workdir: Path, step: int, steps_per_epoch: int, total_steps: int, changed: list[str]) -> None:
    """Prints how far a run is after a step, if keys have changed that determine what is trained.

    Raises UserError if no steps would be left for the changed keys, or if the step exceeds the run. A finished run that
    is started again without changes is accepted.
    """
    if step > total_steps or (changed and step == total_steps):
        cause = f" with the changed {', '.join(changed)}" if changed else ""
        raise UserError(
            f"nothing would be trained{cause}: {workdir} is at step {step}, and the run has {total_steps}. Use "
            f"--config.epochs={step // steps_per_epoch + 1} or more and --allow_config_change to resume, or another "
            f"--workdir, which --init_from={workdir} gives these parameters"
        )
    if changed:
        print(f"{workdir} is at step {step}, {100 * step / total_steps:.0f} % of the run as it is now", flush=True)
