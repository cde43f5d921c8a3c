"""Checkpoints that are read while a run replaces them, or that cannot be read for another reason."""

import errno
import threading

import jax
import pytest

from dynet_jax.errors import UserError
from dynet_jax.workdir import newest_whole
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.newest_whole import Vanished, still_there
from tests.train.test_checkpoint import damage_by_deleting, make_state, save, template


def shapes():
    return jax.eval_shape(lambda: make_state(0).variables)


@pytest.fixture
def replaced(tmp_path, monkeypatch):
    """A folder of one checkpoint, which a run with keep_checkpoints=1 replaces whenever one has begun to read it."""
    writer = Checkpoints(tmp_path, keep=1)
    writer.save(make_state(1), wait=True)
    manifest, state = Checkpoints.manifest, {"left": 0}

    def meanwhile(self, step=None):
        if state["left"]:
            state["left"] -= 1
            writer.save(make_state(writer.latest_step + 1), wait=True)
        return manifest(self, step)

    monkeypatch.setattr(Checkpoints, "manifest", meanwhile)
    return tmp_path, state


@pytest.mark.parametrize("times", [1, 3])
def test_what_vanished_is_read_anew(replaced, times):
    folder, state = replaced
    state["left"] = times
    assert Checkpoints(folder, warn=pytest.fail).read(shapes()).step == 1 + times


def test_a_checkpoint_may_vanish_after_its_manifest_has_been_read(replaced, monkeypatch):
    folder, state = replaced
    network = Checkpoints._network

    def late(self, step, wanted):
        found = Checkpoints.manifest(self, step)
        state["left"] = int(step == 1)
        monkeypatch.setattr(Checkpoints, "manifest", lambda self, step=None: (late_save(), found)[1])
        return network(self, step, wanted)

    def late_save():
        if state.pop("left", 0):
            monkeypatch.undo()
            save(folder, 2, keep=1)

    monkeypatch.setattr(Checkpoints, "_network", late)
    assert Checkpoints(folder, warn=pytest.fail).read(shapes()).step == 2


def test_a_step_that_was_asked_for_and_has_vanished(replaced):
    folder, state = replaced
    reader = Checkpoints(folder, warn=pytest.fail)
    state["left"] = 1
    with pytest.raises(UserError, match=r"^there is no checkpoint of step 1 in .*; there are \[2\]$"):
        reader.read(shapes(), step=1)


def test_a_run_that_is_always_faster(replaced, monkeypatch):
    folder, state = replaced
    monkeypatch.setattr(newest_whole, "TRIES", 3)
    state["left"] = 1000
    with pytest.raises(
        UserError,
        match=r"are replaced faster than they can be read; try .* larger --config\.keep_checkpoints",
    ):
        Checkpoints(folder, warn=pytest.fail).read(shapes())


def test_a_damaged_one_is_passed_over_beside_a_run_too(replaced):
    folder, _ = replaced
    save(folder, 5, keep=2)
    damage_by_deleting(folder / "checkpoints/5")
    lines = []
    assert Checkpoints(folder, warn=lines.append).read(shapes()).step == 1
    assert len(lines) == 1
    assert "checkpoints/5 is damaged" in lines[0]


def test_a_reader_is_never_told_to_move_a_run_away(tmp_path):
    save(tmp_path, 1)
    damage_by_deleting(tmp_path / "checkpoints/1")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact \(step 1: .*\); train") as caught:
        Checkpoints(tmp_path, warn=lambda line: None).read(shapes())
    assert "move" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError("PERMISSION_DENIED: Error opening local file: OS error: EACCES Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("own", [True, False])
def test_what_cannot_be_read_is_not_damaged(tmp_path, monkeypatch, error, own):
    save(tmp_path, 1, 2)

    def refuse(self, step=None):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("it failed") from cause

    monkeypatch.setattr(Checkpoints, "manifest", refuse)
    checkpoints = Checkpoints(tmp_path, warn=pytest.fail)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read \(.*\); it may still be intact: make it"):
        checkpoints.restore(template(), set_aside=True) if own else checkpoints.read(shapes())
    assert not (tmp_path / "damaged").exists()


def test_memory_that_is_not_there_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def refuse(self, step=None):
        raise MemoryError

    monkeypatch.setattr(Checkpoints, "manifest", refuse)
    with pytest.raises(MemoryError):
        Checkpoints(tmp_path, warn=pytest.fail).read(shapes())


def test_the_best_may_be_replaced_by_a_better_one(tmp_path, monkeypatch):
    """It is looked up anew: `--step=best` is no number that somebody asked for."""
    asked = []

    def read(step):
        asked.append(step)
        if len(asked) < 3:
            raise Vanished(f"there is no checkpoint of step {step}")
        return "network"

    steps = iter([4, 8, 12])
    assert still_there(lambda: read(next(steps))) == "network"
    assert asked == [4, 8, 12]
    monkeypatch.setattr(newest_whole, "TRIES", 2)
    asked.clear()
    with pytest.raises(Vanished, match="step 8"):
        still_there(lambda: read(4 * (1 + len(asked))))


@pytest.mark.slow
def test_reading_while_a_run_saves_without_pause(tmp_path):
    """Another thread reads, with keep_checkpoints=1: every read gives a valid network, and later ones a newer one."""
    save(tmp_path, 1, keep=1)
    stop = threading.Event()

    def write():
        writer, step = Checkpoints(tmp_path, keep=1, tidy=True), 1
        while not stop.is_set():
            step += 1
            writer.save(make_state(step), wait=True)
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        read = [Checkpoints(tmp_path, warn=pytest.fail).read(shapes()).step for _ in range(40)]
    finally:
        stop.set()
        thread.join()
    assert read == sorted(read)
    assert read[-1] > read[0]
