"""Checkpoints: what is kept, and that a damaged one is never used as a valid one."""

import collections
import dataclasses
import errno
import shutil
import subprocess
import sys
import time

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dynet_jax.errors import UserError
from dynet_jax.train.state import TrainState
from dynet_jax.workdir import checkpoint
from dynet_jax.workdir.checkpoint import Checkpoints


def make_state(step: int, features: int = 5, with_ema: bool = True) -> TrainState:
    rng = np.random.default_rng(step)
    kernels = {"kernel": rng.normal(size=(3, 3, 4, features)), "bias": rng.normal(size=features)}
    params = {"stem": jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), kernels)}
    batch_stats = {"stem_norm": {"mean": jnp.full(features, 0.1 * step), "var": jnp.ones(features)}}
    opt_state = optax.sgd(optax.constant_schedule(0.1), momentum=0.9).init(params)
    state = TrainState(jnp.int32(step), params, batch_stats, opt_state)
    return state.replace(ema=jax.tree.map(jnp.copy, state.variables)) if with_ema else state


def save(folder, *steps, **arguments) -> None:
    checkpoints = Checkpoints(folder, **arguments)
    for step in steps:
        checkpoints.save(make_state(step))
    checkpoints.close()


def template(**arguments) -> TrainState:
    return jax.eval_shape(lambda: make_state(0, **arguments))


def on_devices(tree, count: int):
    mesh = Mesh(np.asarray(jax.devices()[:count]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_state_comes_back_on_any_number_of_devices(tmp_path, devices):
    save(tmp_path, 7)
    state = Checkpoints(tmp_path).restore(on_devices(template(), devices))
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(make_state(7)))
    assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(state))


@flax.struct.dataclass
class OldState:
    """The state before coefficients were measured, without a field for them."""

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: tuple
    ema: dict


@pytest.mark.parametrize("with_ema", [True, False])
def test_a_state_of_before_coefficients_were_measured(tmp_path, monkeypatch, with_ema):
    """It comes back, for a static network and for a dynamic one, whose running means begin anew."""
    state = make_state(7, with_ema=with_ema)
    fields = [field.name for field in dataclasses.fields(OldState)]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "on_disk", lambda state: OldState(*(getattr(state, name) for name in fields)))
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state, wait=True)
        checkpoints.close()
    assert "coefficients" not in (tmp_path / "checkpoints/7/state/_METADATA").read_text()
    for coefficients in ({}, {"stage1": jnp.ones(24)}):
        wanted = jax.eval_shape(lambda c=coefficients: make_state(0, with_ema=with_ema).replace(coefficients=c))
        found = Checkpoints(tmp_path).restore(on_devices(wanted, 2))
        assert all(not np.asarray(leaf).any() for leaf in found.coefficients.values())
        assert found.coefficients.keys() == coefficients.keys()
        chex.assert_trees_all_equal(jax.device_get(found.replace(coefficients={})), jax.device_get(state))


def test_running_means_are_kept_and_others_begin_anew(tmp_path):
    """They are measured from and not computed with: stages of other names or sizes make no other model."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(make_state(8).replace(coefficients={"stage1": jnp.ones(24), "a/b": jnp.ones(3)}), wait=True)
    checkpoints.close()

    def restored(coefficients):
        wanted = jax.eval_shape(lambda: make_state(0).replace(coefficients=coefficients))
        return jax.device_get(Checkpoints(tmp_path).restore(on_devices(wanted, 2)).coefficients)

    same = {"stage1": jnp.zeros(24), "a/b": jnp.zeros(3)}
    chex.assert_trees_all_equal(restored(same), jax.tree.map(lambda leaf: np.ones(leaf.shape), same))
    for other in ({}, {"stage1": jnp.ones(25), "a/b": jnp.ones(3)}, {"stage2": jnp.ones(24)}):
        chex.assert_trees_all_equal(restored(other), jax.tree.map(lambda leaf: np.zeros(leaf.shape), other))


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.5), (4, None), (5, 0.9 - 1e-9), (6, None), (7, None)):
        if score is not None:
            checkpoints.score(step, score)
        checkpoints.save(make_state(step), wait=True)
    assert checkpoints.steps == [2, 6, 7]
    assert (checkpoints.latest_step, checkpoints.best_step) == (7, 2)
    checkpoints.score(6, 0.9)  # an equal one that is newer
    assert checkpoints.best_step == 6
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6", "7"]


def test_a_step_may_be_asked_for(tmp_path):
    save(tmp_path, 1, 2)
    assert int(Checkpoints(tmp_path).restore(template(), step=1).step) == 1
    with pytest.raises(UserError, match=r"no checkpoint of step 3 .* there are \[1, 2\]"):
        Checkpoints(tmp_path).restore(template(), step=3)


def test_another_model_gives_the_differing_keys(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(UserError, match="of another model") as caught:
        Checkpoints(tmp_path).restore(template(features=6, with_ema=False))
    assert "batch_stats/stem_norm/mean (saved float32[5], expected float32[6])" in str(caught.value)
    assert "ema/batch_stats/stem_norm/mean (saved float32[5], expected nothing)" in str(caught.value)
    assert "10 of 12 entries differ" in str(caught.value)


def damage_by_deleting(folder):
    shutil.rmtree(folder / "state")


def damage_by_emptying(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_by_truncating(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_by_another_manifest(folder):
    shutil.copy(folder.parent / "1/manifest/metadata", folder / "manifest/metadata")


def damage_by_losing_the_manifest(folder):
    shutil.rmtree(folder / "manifest")


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_deleting,
        damage_by_emptying,
        damage_by_truncating,
        damage_by_another_manifest,
        damage_by_losing_the_manifest,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints/2")
    lines = []
    checkpoints = Checkpoints(tmp_path, warn=lines.append)
    state = checkpoints.restore(template(), set_aside=True)
    chex.assert_trees_all_equal(state, make_state(1))
    assert "checkpoints/2 is damaged" in lines[0]
    assert (tmp_path / "damaged/2").is_dir()
    checkpoints.save(make_state(2), wait=True)  # the run comes to that step again
    assert int(Checkpoints(tmp_path).restore(template()).step) == 2


def test_a_checkpoint_under_another_steps_name_is_damaged(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "checkpoints/2").rename(tmp_path / "checkpoints/9")
    lines = []
    assert int(Checkpoints(tmp_path, warn=lines.append).restore(template()).step) == 1
    assert "checkpoints/9 is damaged: it is of step 2" in lines[0]


def test_a_step_before_the_newest_is_not_taken_for_saved(tmp_path):
    save(tmp_path, 5)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="Orbax declines to save step 3 after step 5"):
        checkpoints.save(make_state(3), wait=True)


def test_a_damaged_step_that_was_asked_for_names_the_others(tmp_path):
    save(tmp_path, 1, 2, 3)
    damage_by_deleting(tmp_path / "checkpoints/2")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged: .*; other steps: 1, 3"):
        Checkpoints(tmp_path).restore(template(), step=2)


def test_what_a_killed_save_left_is_removed_by_the_next_run_only(tmp_path):
    save(tmp_path, 1)
    left = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints/1", left)
    assert Checkpoints(tmp_path).steps == [1]  # as `dynet evaluate` does, beside a run that may be saving
    assert left.exists()
    Checkpoints(tmp_path, tidy=True).save(make_state(3), wait=True)  # at the latest
    assert not left.exists()
    assert Checkpoints(tmp_path).steps == [1, 3]


def test_nothing_whole_is_an_error_and_left_alone(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        damage_by_deleting(tmp_path / f"checkpoints/{step}")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact \(step 2: .*; step 1: .*\); move that folder"):
        Checkpoints(tmp_path, warn=lambda line: None).restore(template(), set_aside=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def corrupted(content: bytes, rng) -> tuple[bytes, str]:
    """Yields files with a flipped bit, truncated, with zeros, or with appended bytes, and which of these."""
    content = bytearray(content)
    kind = rng.choice(["flip", "flip", "flip", "cut", "zeros", "add"])
    place = int(rng.integers(max(1, len(content))))
    if kind == "flip" and content:
        content[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del content[place:]
    elif kind == "zeros":
        content[place : place + 16] = bytes(len(content[place : place + 16]))
    else:
        content += rng.bytes(8)
    return bytes(content), kind


@pytest.mark.slow
def test_no_corruption_is_missed(tmp_path, record_property):
    """Every file of the newest checkpoint in turn, 240 corruptions: it is either found, or changes nothing."""
    save(tmp_path / "good", 1, 2)
    wanted = {step: jax.device_get(make_state(step)) for step in (1, 2)}
    files = sorted((tmp_path / "good/checkpoints/2").rglob("*"))
    files = [path.relative_to(tmp_path) for path in files if path.is_file()]
    files += [path.relative_to(tmp_path) for path in (tmp_path / "good/checkpoints").glob("*") if path.is_file()]
    assert len(files) > 5
    outcomes: collections.Counter = collections.Counter()
    rng = np.random.default_rng(0)
    for trial in range(240):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        file = tmp_path / "bad" / files[trial % len(files)].relative_to("good")
        content, kind = corrupted(file.read_bytes(), rng)
        file.write_bytes(content)
        lines: list[str] = []
        state = jax.device_get(Checkpoints(tmp_path / "bad", warn=lines.append).restore(template()))
        step = int(state.step)
        same = all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(wanted.get(step, wanted[1]))))
        outcome = "missed" if not same else "harmless" if step == 2 else "detected" if lines else "silent"
        outcomes[outcome] += 1
        assert outcome in ("detected", "harmless"), f"{kind} in {file}: {outcome}"
        shutil.rmtree(tmp_path / "bad")
    record_property("outcomes", dict(outcomes))
    assert outcomes["detected"] > 50, outcomes


def fail(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_survived(tmp_path, monkeypatch):
    lines = []
    checkpoints = Checkpoints(tmp_path, warn=lines.append)
    checkpoints.save(make_state(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail)
        checkpoints.save(make_state(2))
        assert len(lines) == 1
        assert "No space left on device); the newest is of step 1. Training continues" in lines[0]
        with pytest.raises(UserError, match=r"the newest is of step 1\. Make room, then run the same command"):
            checkpoints.save(make_state(2), wait=True)
    checkpoints.save(make_state(3), wait=True)
    assert checkpoints.steps == [1, 3]
    assert int(Checkpoints(tmp_path).restore(template()).step) == 3


def test_a_failed_save_is_tried_again_before_the_end(tmp_path, monkeypatch):
    lines = []
    checkpoints = Checkpoints(tmp_path, warn=lines.append)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "finalize", fail)
        checkpoints.save(make_state(1))
        while checkpoints._manager.is_saving_in_progress():
            time.sleep(0.01)
    checkpoints.save(make_state(1), wait=True)
    assert len(lines) == 1
    assert "No space left" in lines[0]
    assert int(Checkpoints(tmp_path).restore(template()).step) == 1


def test_an_error_in_the_background_is_reported_and_survived(tmp_path, monkeypatch):
    lines = []
    checkpoints = Checkpoints(tmp_path, warn=lines.append)
    checkpoints.save(make_state(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.JsonCheckpointHandler, "finalize", fail, raising=False)
        patch.setattr(ocp.StandardCheckpointHandler, "finalize", fail)
        checkpoints.save(make_state(2))
        deadline = time.monotonic() + 30
        while not lines and time.monotonic() < deadline:
            checkpoints.check()
    assert len(lines) == 1
    assert "No space left on device); the newest is of step 1. Training continues" in lines[0]
    checkpoints.save(make_state(2), wait=True)
    checkpoints.close()
    assert len(lines) == 1
    shutil.rmtree(tmp_path / "checkpoints/2")
    again = Checkpoints(tmp_path)
    assert again.steps == [1]
    again.save(make_state(2), wait=True)
    assert int(again.restore(template()).step) == 2


SAVE_FOREVER = """
import sys, jax.numpy as jnp
from dynet_jax.workdir.checkpoint import Checkpoints
from tests.train.test_checkpoint import make_state
checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in range(1, 1000):
    checkpoints.save(make_state(step, features=100_000), wait=step < 3)
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_a_kill_in_the_middle_of_a_save_leaves_whole_checkpoints(tmp_path, delay):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        while process.stdout.readline() != "5\n":
            assert process.poll() is None
        time.sleep(delay)
        process.kill()
    state = Checkpoints(tmp_path, warn=pytest.fail).restore(template(features=100_000))
    assert int(state.step) >= 3
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(make_state(int(state.step), features=100_000)))
