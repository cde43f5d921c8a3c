"""Checkpoints of a work directory. Only this file and `save_barrier.py` use Orbax."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dynet_jax import bucket
from dynet_jax.console import warn
from dynet_jax.errors import UserError, named
from dynet_jax.hosts import all_hosts, together
from dynet_jax.workdir.background import Background, guarded_manifest, own_barriers
from dynet_jax.workdir.integrity import (
    Damaged,
    Manifest,
    check_arrays,
    check_manifest,
    differences,
    make_manifest,
    part_of,
)
from dynet_jax.workdir.newest_whole import newest_whole, still_there
from dynet_jax.workdir.preserved import NewestAndBest, best_of
from dynet_jax.workdir.save_barrier import SaveBarrier
from dynet_jax.workdir.saved_state import (
    AVERAGES,
    VARIABLES,
    S,
    SavedNetwork,
    State,
    as_it_was_kept,
    fits,
    on_disk,
    zeros,
)

SHOWN_DIFFERENCES = 10

T = TypeVar("T")


class Checkpoints:
    """The checkpoints WORKDIR/checkpoints/STEP, saved atomically in the background, with a digest of every array.

    The newest `keep` and the one with the best score are kept. A failed save (a full disk) is reported by `warn` and
    does not affect the others; the next save tries again.

    In a bucket the whole save runs in the background, and a save that is due while another one is running is skipped.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int = 3,
        *,
        tidy: bool = False,
        warn: Callable[[str], None] = warn,
        before_commit: Callable[[], None] = lambda: None,
    ):
        """Opens the checkpoints of a work directory; nothing is created before the first save.

        tidy: whether to remove the remains of killed and failed saves; only for the run that writes here.
        before_commit: called by the first host before a checkpoint counts as saved; it may raise to prevent this.
        """
        self._folder, self._keep = bucket.absolute(workdir) / "checkpoints", keep
        self._tidy, self._warn, self._before_commit = tidy, warn, before_commit
        self._background = Background() if bucket.is_bucket(workdir) else None
        self._scores: dict[int, float] = {}
        self._known: list[int] = []  # the existing steps while the folder must not be read
        self._under_way = False
        self._error: Exception | None = None
        self._barrier = SaveBarrier()
        # Reading must not create folders.
        self._manager: Any = still_there(self._open) if bucket.is_folder(self._folder) else None

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=NewestAndBest(self._keep, self._scores),
            create=False,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(barrier_sync_fn=self._barrier),
            cleanup_tmp_directories=self._tidy,
            save_root_metadata=False,
            multiprocessing_options=own_barriers() if self._background else ocp.options.MultiprocessingOptions(),
        )
        return ocp.CheckpointManager(
            self._folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "manifest": guarded_manifest(self._before_commit),
            },
        )

    @property
    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending."""
        manager = self._manager  # a save in the background may set it to None
        return sorted(manager.all_steps()) if manager else self._known

    @property
    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """Returns the step with the highest score, the later of equals, or None if none has a score."""
        return best_of(self.steps, self._scores)

    def score(self, step: int, value: float) -> None:
        """Records the accuracy of a step, by which the best checkpoint is kept."""
        self._scores[step] = value

    def save(self, state: State, *, wait: bool = False) -> None:
        """Starts a save after copying the state. Saving a step again does nothing.

        With `wait` it returns when the checkpoint is on disk, or raises UserError.
        """
        step = int(state.step)
        if self._background is not None and not wait and not all_hosts(not self._background.is_busy):
            if jax.process_index() == 0:
                self._warn(f"the checkpoint of step {step} is skipped, as the previous one is still being saved")
            return
        self._finish_last()  # it may be a failed save of this step
        self._under_way = True
        try:
            if self._background is not None:
                copied = jax.device_get(state)  # training continues in the original arrays
                self._background.start(lambda: self._save_whole(step, copied))
            else:
                self._start(step, state)
        except Exception as error:  # Orbax and TensorStore raise many exceptions when a disk is full
            self._error = error
        if wait or (self._error is not None and jax.process_count() == 1):
            self._finish_last(fatal=wait)

    def _save_whole(self, step: int, state: State) -> None:
        """Saves in the background. A host that fails reports it at once, because the others wait for it."""
        try:
            self._start(step, state)
            self._manager.wait_until_finished()
        except Exception as error:
            self._barrier.failed(named(error))
            self._forget(step)
            raise

    def _forget(self, step: int) -> None:
        """Makes the next save read again which checkpoints exist."""
        self._known = [other for other in self.steps if other != step]
        self._let_go()

    def _start(self, step: int, state: State) -> None:
        self._barrier.next_save()
        if self._manager is None:
            if self._background is None:  # buckets have no folders
                together(lambda: self._folder.mkdir(parents=True, exist_ok=True))
            self._manager = self._open()
        if step not in self.steps:
            items = {
                "state": ocp.args.StandardSave(on_disk(state)),
                "manifest": ocp.args.JsonSave(make_manifest(state)),
            }
            if not self._manager.save(step, args=ocp.args.Composite(**items)):
                raise RuntimeError(f"Orbax declines to save step {step} after step {self.latest_step}")

    def check(self) -> None:
        """Reports a failed background save. It is cheap enough to be called after every step.

        Several hosts would notice it after different steps, so they check together, at the next save.
        """
        if self._under_way and jax.process_count() == 1 and not self._is_saving:
            self._finish_last()

    @property
    def _is_saving(self) -> bool:
        return self._manager.is_saving_in_progress() if self._background is None else self._background.is_busy

    def _finish_last(self, *, fatal: bool = False) -> None:
        """Waits for the current save, on all hosts together, and reports its failure."""
        if not self._under_way:
            return
        error, self._error, self._under_way = self._error, None, False
        try:
            if self._background is not None:
                self._background.wait()
            elif error is None:
                self._manager.wait_until_finished()
        except Exception as caught:
            error = caught
        if error is not None and self._background is None:
            self._barrier.failed(named(error))
        if not all_hosts(error is None):
            self._save_failed(error or RuntimeError("it failed on another host"), fatal=fatal)

    def _save_failed(self, error: Exception, *, fatal: bool) -> None:
        if self._background is None:
            self._let_go()
            self._manager = self._open() if self._folder.is_dir() else None  # forget the one that was not saved
        elif self._manager is not None:  # it failed on another host
            self._forget(max(self.steps))
        newest = "there is none yet" if self.latest_step is None else f"the newest is of step {self.latest_step}"
        line = f"a checkpoint could not be saved ({named(error)}); {newest}"
        if fatal:
            cure = "Make room, then" if self._background is None else "When the bucket can be written to,"
            away = self._background is not None and bucket.is_away(error)
            kind = bucket.Unreachable if away else UserError
            raise kind(f"{line}. {cure} run the same command to resume from there") from error
        self._warn(f"{line}. Training continues and will try again at the next save")

    def _let_go(self) -> None:
        if self._manager is not None:
            with contextlib.suppress(Exception):  # it raises the same error again
                self._manager.close()
        self._manager = None

    def restore(self, template: S, *, step: int | None = None, set_aside: bool = False) -> S:
        """Returns the newest valid state (or that of `step`), structured like `template`: arrays, or sharded shapes.

        A damaged checkpoint is reported and skipped. With `set_aside` it is moved to WORKDIR/damaged, so that a run
        that resumes from an older one can save that step again.

        Raises UserError if there is no valid one, or if it is the state of another network or optimiser.
        """
        return self._first_whole(lambda candidate: self._state(candidate, template), step, set_aside)

    def read(self, shapes: dict[str, Any], *, step: int | None = None) -> SavedNetwork:
        """Returns the newest valid network (or that of `step`) as NumPy arrays; the rest of the checkpoint is not read.

        shapes: those of the network's variables, {'params': ..., 'batch_stats': ...}.
        Damaged checkpoints and errors are handled as in `restore`.
        """
        return self._first_whole(lambda candidate: self._network(candidate, shapes), step)

    def _first_whole(self, read: Callable[[int], T], step: int | None, own: bool = False) -> T:
        with bucket.told(self._folder):
            result, damaged = newest_whole(self._folder, self._look, read, step=step, warn=self._warn, own=own)
            if damaged and own:
                self._set_aside(damaged)
        return result

    def _look(self) -> list[int]:
        """Returns the existing steps; a run may be saving at the same time."""
        if self._manager is not None:
            still_there(self._manager.reload)
        return self.steps

    def _state(self, step: int, template: S) -> S:
        manifest = self.manifest(step)
        wanted = as_it_was_kept(template, manifest)
        self._refuse_another_model(step, differences(wanted, manifest), manifest)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, on_disk(wanted))
        state = type(template)(**self._read(step, state=ocp.args.StandardRestore(abstract)))
        check_arrays(state, manifest)
        _check_step(step, state.step)
        if not fits(state.coefficients, template.coefficients):  # they are only for measurements, so they start again
            state = state.replace(coefficients=zeros(template.coefficients))
        return state

    def _network(self, step: int, shapes: dict[str, Any]) -> SavedNetwork:
        manifest = self.manifest(step)
        averaged = part_of(manifest, (AVERAGES,))
        saved = part_of(manifest, ("step", AVERAGES) if averaged["arrays"] else ("step", *VARIABLES))
        wanted = {"step": jax.ShapeDtypeStruct((), np.int32)} | ({AVERAGES: shapes} if averaged["arrays"] else shapes)
        self._refuse_another_model(step, differences(wanted, saved), saved)
        wanted = {name: tree for name, tree in wanted.items() if jax.tree.leaves(tree)}  # Orbax rejects empty parts
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        request = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.restore(self._folder / str(step) / "state", args=request)
        check_arrays(found, saved)
        _check_step(step, found.pop("step"))
        return SavedNetwork({name: {} for name in shapes} | found.get(AVERAGES, found), step)

    def manifest(self, step: int | None = None) -> Manifest:
        """Returns the manifest of a checkpoint, by default the newest, see `make_manifest`. Raises Damaged."""
        manifest = self._read(self.latest_step if step is None else step, manifest=ocp.args.JsonRestore())
        check_manifest(manifest)
        return manifest

    def _read(self, step: int | None, **item):
        (name,) = item
        return self._manager.restore(step, args=ocp.args.Composite(**item))[name]

    def _refuse_another_model(self, step: int, different: Sequence[str], manifest: Manifest) -> None:
        if different:
            more = f", and {len(different) - SHOWN_DIFFERENCES} more" if len(different) > SHOWN_DIFFERENCES else ""
            what = "optimiser" if all(entry.startswith("opt_state/") for entry in different) else "model"
            raise UserError(
                f"the checkpoint {self._folder / str(step)} is of another {what}: {len(different)} of "
                f"{len(manifest['arrays'])} entries differ: {', '.join(different[:SHOWN_DIFFERENCES])}{more}; use "
                "another --workdir, or the configuration it was trained with"
            )

    def _set_aside(self, steps: Sequence[int]) -> None:
        aside = self._folder.parent / "damaged"
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in steps:
                free = (aside / f"{step}{suffix}" for suffix in ("", *(f".{i}" for i in range(1, 1000))))
                bucket.move(self._folder / str(step), next(path for path in free if not bucket.is_folder(path)))
        all_hosts(True)  # no host reads before they are moved
        self._manager.close()
        self._manager = self._open()
        self._warn(f"damaged checkpoints are now in {aside}")

    def close(self) -> None:
        """Waits for the current save, and releases the directory."""
        try:
            if self._background is not None:
                self._background.wait()
            if self._manager is not None:
                self._manager.close()
        except Exception as error:
            self._warn(f"the last checkpoint could not be saved ({named(error)})")


def _check_step(expected: int, found) -> None:
    if int(found) != expected:
        raise Damaged(f"it is of step {int(found)}")
