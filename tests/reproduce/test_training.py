"""Runs in separate processes, stopped in the middle: what remains, and how they resume."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import jax
import pytest

from dynet_jax.errors import UserError
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.experiments import Experiment
from dynet_jax.reproduce.plan import Plan, last_evaluation
from dynet_jax.reproduce.training import Arrangement, Interrupted, arrange, train_plan
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics
from tests.quick_compilation import flags

ROOT = Path(__file__).parents[2]
ARM = Arm("resnet18", 0.0625)


def small_plan(out):
    """Two runs of a network that is soon compiled."""
    overrides = ["--config.epochs=1", "--config.log_every_steps=4", "--config.checkpoint_every_steps=4"]
    plan = Plan("digits", "small", out, seeds=2, overrides=[*overrides, "--config.data.threads=1"])
    plan.experiments = {"table1": Experiment((ARM,))}
    plan.claim().close()
    return plan


def train_in_a_process(out, **options):
    script = f"""
import sys
from tests.reproduce.test_training import Arrangement, small_plan, train_plan
from pathlib import Path
def say(line):
    print(line, file=sys.stderr, flush=True)
sys.exit(bool(train_plan(small_plan(Path({str(out)!r})), Arrangement(1, 1), say)))
"""
    return subprocess.Popen([sys.executable, "-c", script], **options)


def scores(plan):
    """Returns the scores of all evaluations of all runs."""
    return [read_metrics(job.workdir / METRICS_FILE, "test") for job in plan.jobs(ARM)]


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Workers would spend their time on waiting for eight devices of a few images each; this process keeps its own."""
    jax.devices()  # JAX reads the flags when it is first used
    with mock.patch.dict(os.environ, XLA_FLAGS=flags(devices=1)):
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    plan = small_plan(tmp_path_factory.mktemp("plan") / "out")
    assert train_plan(plan, Arrangement(1, 1), print) == {}
    return plan


@pytest.mark.slow
def test_runs_are_finished_and_not_run_again(uninterrupted):
    files = [job.workdir / "finished" for job in uninterrupted.jobs(ARM)]
    before = [file.stat().st_mtime_ns for file in files]
    assert train_plan(uninterrupted, Arrangement(1, 1), print) == {}
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_numbers(uninterrupted, tmp_path):
    plan = small_plan(tmp_path / "out")
    process = train_in_a_process(plan.out)
    wait_for(lambda: plan.job(ARM, 0).steps_done >= 8)
    process.kill()
    process.wait()
    lock = (plan.job(ARM, 0).workdir / ".lock").open("w")

    def free():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    wait_for(free, seconds=20)  # its worker has noticed and ended
    lock.close()
    assert not plan.job(ARM, 0).is_finished
    assert train_plan(plan, Arrangement(1, 1), print) == {}
    assert scores(plan) == scores(uninterrupted)


@pytest.mark.slow
def test_a_signal_saves_and_leaves_with_75(uninterrupted, tmp_path):
    plan = small_plan(tmp_path / "out")
    process = train_in_a_process(plan.out, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: plan.job(ARM, 0).steps_done >= 4)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "Interrupted: stopped; run the same command to resume" in errors
    assert any((plan.job(ARM, 0).workdir / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_run_without_its_last_evaluation_is_not_finished(uninterrupted, tmp_path):
    """A full disk leaves such a run; once there is room, only the evaluation is repeated."""
    plan = small_plan(tmp_path / "out")
    shutil.copytree(uninterrupted.out / "runs", plan.out / "runs")
    workdir = plan.job(ARM, 0).workdir
    (workdir / "finished").unlink()
    rows = (workdir / METRICS_FILE).read_text().splitlines(keepends=True)
    (workdir / METRICS_FILE).write_text("".join(rows[:-1]))
    assert '"test"' in rows[-1]
    assert last_evaluation(workdir, plan.steps) is None
    assert train_plan(plan, Arrangement(1, 1), print) == {}
    assert scores(plan) == scores(uninterrupted)


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_others(uninterrupted, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('what a library prints is not an answer')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    plan = small_plan(tmp_path / "out")
    for job in uninterrupted.jobs(ARM)[1:]:  # the second seed is done already
        destination = plan.job(ARM, job.seed).workdir
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.symlink_to(job.workdir)
    workdir = plan.job(ARM, 0).workdir
    workdir.mkdir(parents=True)
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = train_plan(plan, Arrangement(1, 1), print)
    assert list(failed) == [workdir]
    assert "another run is using" in failed[workdir]


FAKE = """
import os, signal, sys, time
from dynet_jax.errors import UserError
from dynet_jax.measure.serve import serve

def answer(question):
    network, seed = question["config"]["model"]["name"], question["config"]["seed"]
    with open(question["workdir"] + ".begun", "a") as file:
        print(os.getpid(), file=file)
    if network == "resnet18" and seed == 0: os.kill(os.getpid(), signal.SIGKILL)
    if network == "resnet18" and seed == 1: raise UserError("the disk is full")
    if network == "dy_resnet18": time.sleep(600)

def save(number, frame):
    open(os.environ["SAVED"], "a").write("saved ")
    os._exit(75)

signal.signal(signal.SIGTERM, save)
serve(answer)
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Runs of ResNet18 fail, those of Dy-ResNet18 never end; the others are trained in no time."""
    (tmp_path / "fake_training.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}{os.pathsep}{ROOT}")
    monkeypatch.setenv("SAVED", str(tmp_path / "saved"))
    monkeypatch.setattr("dynet_jax.reproduce.training.MODULE", "fake_training")

    def plan_of(*networks):
        plan = small_plan(tmp_path / "out")
        plan.experiments = {"table1": Experiment(tuple(Arm(network, 0.0625) for network in networks))}
        return plan

    return plan_of


def begun(job):
    """Returns the processes in which a run has started."""
    file = job.workdir.with_name(job.workdir.name + ".begun")
    return file.read_text().split() if file.exists() else []


def test_a_process_that_dies_costs_its_run_only(fake, monkeypatch):
    plan, lines = fake("resnet18", "mobilenet_v2"), []
    first, second, *others = (job for arm in plan.arms for job in plan.jobs(arm))
    failed = train_plan(plan, Arrangement(1, None), lines.append)
    assert failed == {
        first.workdir: "its process ended with exit code -9; see runs/resnet18-w0.0625.log",
        second.workdir: "the disk is full",
    }
    assert [line for line in lines if "failed" in line] == [
        f"{workdir} failed: {why}" for workdir, why in failed.items()
    ]
    processes = [process for job in (first, second, *others) for process in begun(job)]
    assert len(set(processes)) == 2  # one until it died, one for all others
    assert len(processes) == 4


def test_a_signal_reaches_every_process(fake, tmp_path):
    plan, lines = fake("dy_resnet18", "mobilenet_v2"), []

    def tell():
        end = time.monotonic() + 100
        while not begun(plan.job(plan.arms[0], 0)) and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=tell).start()
    with pytest.raises(Interrupted, match="run the same command to resume") as interrupted:
        train_plan(plan, Arrangement(2, 1), lines.append)
    assert interrupted.value.exit_code == 75
    assert lines[-1] == "stopping: every run saves its state; send the signal again to stop at once"
    assert set((tmp_path / "saved").read_text().split()) == {"saved"}
    assert not any("failed" in line for line in lines)
    assert signal.getsignal(signal.SIGTERM) == before


def test_runs_have_as_many_cores_each_whatever_is_left():
    with mock.patch("dynet_jax.reproduce.training.cores", return_value=[0, 1, 2, 3]):
        assert arrange(None, "cpu", None) == Arrangement(4, 1)
        assert arrange(2, "cpu", None) == Arrangement(2, 2)
        assert arrange(None, "cpu", 2) == Arrangement(2, 2)  # of the plan's earlier runs
        assert arrange(3, "cpu", 1) == Arrangement(3, 1)
        assert [Arrangement(2, 2).cores_of(place) for place in range(2)] == [[0, 1], [2, 3]]
        assert Arrangement(1, 1).cores_of(0) == [0]


def test_an_accelerator_has_one_process():
    assert arrange(None, "NVIDIA H100", None) == Arrangement(1, None)
    with pytest.raises(UserError, match="one process has all of the memory of NVIDIA H100"):
        arrange(2, "NVIDIA H100", None)
