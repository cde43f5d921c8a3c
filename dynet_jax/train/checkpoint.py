"""Checkpoints of a work directory. The only file that knows Orbax."""

from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from dynet_jax.errors import UserError
from dynet_jax.train.state import TrainState


class Checkpoints:
    """WORKDIR/checkpoints/STEP: saved in the background, whole or invisible, the newest `keep` of them kept."""

    def __init__(self, workdir: Path, keep: int = 3):
        self._folder, self._keep = Path(workdir).absolute() / "checkpoints", keep
        self._manager = self._open() if self._folder.is_dir() else None  # reading must not make folders

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=False, enable_async_checkpointing=True)
        # The handler is named because without it a manager that has not saved yet cannot say what is in a checkpoint.
        handler = ocp.StandardCheckpointHandler()
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=handler)

    @property
    def latest_step(self) -> int | None:
        """Of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step() if self._manager else None

    def save(self, state: TrainState, *, wait: bool = False) -> None:
        """Start saving; a copy of the state is taken at once. Saving a step again does nothing."""
        if self._manager is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()
        step = int(state.step)
        if step != self.latest_step:
            self._manager.save(step, args=ocp.args.StandardSave(state))
        if wait:
            self._manager.wait_until_finished()

    def restore(self, template: TrainState) -> TrainState:
        """The newest state, laid out like `template` (arrays, or shapes with shardings).

        Raises UserError if there is none, or if it is the state of another network or optimiser.
        """
        step = self.latest_step
        if step is None:
            raise UserError(f"there is no checkpoint in {self._folder}")
        saved = _shapes(self._read(step, lambda: self._manager.item_metadata(step)))
        wanted = _shapes(template)
        differences = [key for key in sorted(saved | wanted) if saved.get(key) != wanted.get(key)]
        if differences:
            key = differences[0]
            raise UserError(
                f"the checkpoint {self._folder / str(step)} is of another model: {len(differences)} of {len(wanted)} "
                f"entries differ, first {key} (saved {saved.get(key, 'nothing')}, expected "
                f"{wanted.get(key, 'nothing')}); use another --workdir, or the configuration it was trained with"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        return self._read(step, lambda: self._manager.restore(step, args=ocp.args.StandardRestore(abstract)))

    def _read(self, step: int, read: Callable):
        """Orbax raises many things when files are missing or cut short; all of them mean the same to the user."""
        try:
            content = read()
            if not jax.tree.leaves(content, is_leaf=lambda leaf: hasattr(leaf, "shape")):
                raise ValueError("it is empty")
            return content
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            older = [other for other in self._manager.all_steps() if other < step]
            then = f"go on from step {max(older)}" if older else "start from the beginning"
            raise UserError(
                f"the checkpoint {self._folder / str(step)} is damaged ({type(error).__name__}: {reason}); move that "
                f"folder away to {then}"
            ) from error

    def close(self) -> None:
        """Wait for saves under way; an error of theirs is raised here."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """'params/stem/kernel' -> shape. Names of tuples' fields and their positions are the same thing on disk."""
    tree = getattr(tree, "tree", None) or getattr(tree, "item_metadata", None) or tree
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {
        "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path): tuple(
            leaf.shape
        )
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }
