"""The newest valid checkpoint of a folder in which a run may be saving at the same time."""

import contextlib
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dynet_jax import bucket
from dynet_jax.errors import UserError, named
from dynet_jax.hosts import all_hosts
from dynet_jax.memory import causes, is_out_of_memory
from dynet_jax.workdir.integrity import Damaged

TRIES = 30  # attempts of a reader while a run replaces the files that it reads
NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

T = TypeVar("T")


class Vanished(UserError):
    """An error: the requested checkpoint does not exist, or not any more."""


def newest_whole(
    folder: Path,
    steps: Callable[[], Sequence[int]],
    read: Callable[[int], T],
    *,
    step: int | None,
    warn: Callable[[str], None],
    own: bool,
) -> tuple[T, list[int]]:
    """Returns the result of `read` for the newest step that it can read, or for `step`, and the damaged newer steps.

    steps: lists the checkpoints of the folder at the time of the call.
    own: whether this process is the run that saves here. Others read again if a checkpoint has been replaced.
    Raises UserError if there is none, if none is valid, or if one is unreadable for another reason than damage.
    """
    damaged: dict[int, str] = {}
    listed = steps()
    for _ in range(TRIES + len(listed)):
        candidate = _next(folder, listed, step, damaged, own)
        result, damage = _tried(read, candidate, folder)
        if damage is not None and bucket.is_bucket(folder):  # Orbax reports some failed requests as "not there"
            bucket.check_access(folder)
            result, damage = _tried(read, candidate, folder)
        if all_hosts(damage is None):
            return result, [*damaged]  # pyrefly: ignore[bad-return]  (None stands beside damage alone)
        before, listed = listed, listed if own else steps()
        if not all_hosts(candidate in listed and max(listed) == max(before)):
            continue  # a run has saved a newer one in the meantime, and removes those that it no longer keeps
        damaged[candidate] = damage or "another host cannot read it"
        line = f"the checkpoint {folder / str(candidate)} is damaged: {damaged[candidate]}"
        if step is not None:
            others = ", ".join(str(other) for other in listed if other != step) or "none"
            raise UserError(f"{line}; other steps: {others}")
        warn(f"{line}; trying an older one")
    raise UserError(
        f"the checkpoints in {folder} are replaced faster than they can be read; try again when the run has ended, or "
        "start it again with a larger --config.keep_checkpoints or --config.checkpoint_every_steps"
    )


def still_there(look: Callable[[], T]) -> T:
    """Returns the result of reading a folder from which files and checkpoints may vanish at any time."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(FileNotFoundError, Vanished):
            return look()
    return look()


def _next(folder: Path, listed: Sequence[int], step: int | None, damaged: dict[int, str], own: bool) -> int:
    """Returns the step to try. Raises UserError if there is none."""
    if not listed:
        raise Vanished(f"there is no checkpoint in {folder}")
    if step is not None:
        if step not in listed:
            raise Vanished(f"there is no checkpoint of step {step} in {folder}; there are {[*listed]}")
        return step
    left = [candidate for candidate in listed if candidate not in damaged]
    if not left:
        reasons = "; ".join(f"step {step}: {damage}" for step, damage in damaged.items())
        advice = (
            "move that folder away to start from the beginning" if own else "train.py with another --workdir makes some"
        )
        raise UserError(f"no checkpoint in {folder} is intact ({reasons}); {advice}")
    return max(left)


def _tried(read: Callable[[int], T], step: int, folder: Path) -> tuple[T | None, str | None]:
    """Returns the result of `read`, or a description of the damage."""
    try:
        return read(step), None
    except UserError:
        raise
    except Damaged as error:
        return None, str(error)
    except Exception as error:  # Orbax raises many exceptions if files are missing, truncated or changed
        if is_out_of_memory(error):
            raise
        if bucket.is_bucket(folder) and bucket.is_failure(error):
            raise bucket.explained(error, folder / str(step)) from error
        if any(_is_no_damage(cause) for cause in causes(error)):
            raise UserError(
                f"the checkpoint {folder / str(step)} cannot be read ({named(error)}); it may still be intact: "
                "make it readable, then run the same command again"
            ) from error
        return None, named(error)


def _is_no_damage(error: BaseException) -> bool:
    return getattr(error, "errno", None) in NO_DAMAGE or "ermission denied" in str(error)
