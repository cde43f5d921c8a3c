"""launch/worker.sh for real: four processes on this machine are one run, and SLURM's variables are enough to join."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dynet_jax.train.loop import INTERRUPTED
from dynet_jax.workdir.checkpoint import Checkpoints
from tests.train import tiny_run
from tests.train.processes import Run, free_port
from tests.train.saved import load_workdir

pytestmark = pytest.mark.slow
STOPPED = 76  # what launch/background.sh makes of train.py's 75, so that nothing starts it again


class Worker(Run):
    """One process that launch/worker.sh starts."""

    program = ("launch/worker.sh",)


def start_workers(processes: int, workdir: Path, **environment: str) -> list[Worker]:
    common = (f"--coordinator=localhost:{free_port()}", f"--processes={processes}", "--heartbeat_timeout=10")
    return [Worker(workdir, *common, f"--process={host}", environment=environment) for host in range(processes)]


def finish(workers: list[Worker]) -> list[int]:
    return [worker.finish() for worker in workers]


def outputs(workers: list[Worker]) -> str:
    return "\n".join(worker.output for worker in workers)


def results(workdir: Path) -> dict[str, dict]:
    """The last reports of training and of the test."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["kind"]: row for row in rows}


def parameters(workdir: Path) -> list[np.ndarray]:
    tiny_run.get_config()  # registers the network
    return jax.tree.leaves(jax.device_get(load_workdir(workdir)[1].params))


def assert_same_result(workdir: Path, other: Path) -> None:
    """Sums in another order differ by rounding, and forty steps of training amplify that."""
    ours, theirs = results(workdir), results(other)
    assert ours["train"]["step"] == theirs["train"]["step"] == ours["test"]["step"] == 40
    assert ours["test"]["examples"] == theirs["test"]["examples"] == 359
    for kind in ("train", "test"):
        assert ours[kind]["loss"] == pytest.approx(theirs[kind]["loss"], rel=2e-3)
        assert ours[kind]["top1"] == pytest.approx(theirs[kind]["top1"], abs=0.02)
    for a, b in zip(parameters(workdir), parameters(other)):
        assert np.linalg.norm(np.float64(a) - b) < 0.02 * (np.linalg.norm(b) + 1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    run = Worker(workdir)
    assert run.finish() == 0, run.output
    return workdir


def test_a_signal_to_one_of_four_ends_all_and_the_same_command_goes_on(alone, tmp_path):
    workers = start_workers(4, tmp_path)
    workers[0].read_until("step 8/40")
    workers[2].process.send_signal(signal.SIGTERM)
    assert finish(workers) == [INTERRUPTED] * 4, outputs(workers)
    stopped = Checkpoints(tmp_path).latest_step
    assert 8 <= stopped < 40
    again = start_workers(4, tmp_path)
    assert finish(again) == [0, 0, 0, 0], outputs(again)
    assert "40 steps of 64 images on 4 cpu device(s)" in again[0].output
    assert f"continuing at step {stopped}" in again[0].output
    assert_same_result(tmp_path, alone)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into Linux's /proc")
def test_workers_start_again_together(alone, tmp_path):
    """Nothing else restarts them: the signal is for one train.py, not for the script around it."""
    workers = start_workers(2, tmp_path, RESTARTS="2")
    workers[0].read_until("step 8/40")
    os.kill(train_py_below(workers[1].process.pid), signal.SIGTERM)
    assert finish(workers) == [0, 0], outputs(workers)
    for worker in workers:
        assert "worker.sh: exit code 75, starting again (1 of 2)" in worker.output
    assert "continuing at step" in workers[0].output
    assert_same_result(tmp_path, alone)


def train_py_below(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes())


def test_slurm_variables_are_enough(alone, tmp_path):
    """JAX makes the coordinator's port of the job's number."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [{**job, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)} for task in range(2)]
    workers = [Worker(tmp_path, "--distributed", environment=task) for task in tasks]
    assert finish(workers) == [0, 0], outputs(workers)
    assert "on 2 cpu device(s)" in workers[0].output
    assert_same_result(tmp_path, alone)


def test_the_command_of_an_ssh_host_survives_its_connection(tmp_path):
    """launch/background.sh around the worker, as ssh.sh and tpu_vm.sh start it: lost, taken up again, and stopped."""
    folder = str(tmp_path / "kept")
    begun = InBackground(tmp_path / "run", environment={"RUN_DIR": folder})
    begun.read_until("step 8/40")
    begun.process.kill()
    taken_up = InBackground(tmp_path / "run", environment={"RUN_DIR": folder})
    taken_up.read_until("step 12/40")
    assert "step 8/40" in taken_up.output
    stop = subprocess.run(["launch/background.sh", "--stop"], env={**os.environ, "RUN_DIR": folder}, timeout=60)
    assert stop.returncode == 0
    start = time.monotonic()
    assert taken_up.finish() == STOPPED, taken_up.output
    assert time.monotonic() - start < 30
    assert "saved; run the same command to resume" in taken_up.output


class InBackground(Run):
    program = ("launch/background.sh", "launch/worker.sh")
