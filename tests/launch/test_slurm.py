"""launch/slurm.sbatch, as SLURM would run it."""

import shutil
import subprocess

import pytest

from tests.launch.machine import ARGUMENTS, ROOT


def submit(machine, *arguments: str, **variables: str):
    """Runs a copy of the script, as SLURM does, which knows where it was submitted."""
    copy = machine.home / "slurm_script"
    shutil.copy(machine.package / "launch/slurm.sbatch", copy)
    stamp = machine.package / ".venv/installed-cuda13"
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    environment = machine.environment(SLURM_SUBMIT_DIR=str(machine.package), SLURM_JOB_ID="42", **variables)
    return subprocess.run([str(copy), *arguments], env=environment, cwd=machine.home, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("code", "count", "requeued", "ends"),
    [(0, 0, False, 0), (75, 0, True, 0), (134, 3, True, 0), (75, 100, False, 75), (2, 0, False, 2)],
)
def test_slurm(machine, code, count, requeued, ends):
    machine.record("srun", answer=f"exit {code}")
    machine.record("scontrol")
    result = submit(machine, *ARGUMENTS, SLURM_RESTART_COUNT=str(count))
    assert result.returncode == ends, result.stderr
    srun, *rest = machine.calls
    options = ["--kill-on-bad-exit=0", "--cpus-per-task=1"]
    assert srun == ["srun", *options, "env", "RESTARTS=0", "launch/worker.sh", *ARGUMENTS, "--distributed"]
    assert rest == ([["scontrol", "requeue", "42"]] if requeued else [])


@pytest.mark.parametrize(
    ("reports", "highest", "ends"),
    [
        (["node1: task 3: Exited with exit code 1", "node2: tasks 0-2: Aborted (core dumped)"], 134, 1),
        (["node1: tasks 0,2: Exited with exit code 75", "node2: task 1: Exited with exit code 2"], 75, 2),
        (["node1: tasks 0-3: Exited with exit code 75"], 75, 0),
    ],
)
def test_one_task_that_fails_is_not_started_again(machine, reports, highest, ends):
    """srun itself returns the highest code of all tasks."""
    lines = "".join(f'echo "srun: error: {report}" >&2\n' for report in reports)
    machine.record("srun", answer=f"echo out\n{lines}exit {highest}")
    machine.record("scontrol")
    result = submit(machine, "--config=a")
    assert result.returncode == ends
    assert result.stdout.splitlines()[0] == "out"
    assert result.stderr.splitlines() == [f"srun: error: {report}" for report in reports]
    assert ("scontrol" in [call[0] for call in machine.calls]) == (ends == 0)


def test_slurm_directives_come_before_any_command():
    """sbatch reads no further."""
    text = (ROOT / "launch/slurm.sbatch").read_text()
    before = text[: text.index("\nset -euo")].splitlines()
    directives = {line for line in before if line.startswith("#SBATCH")}
    assert all(line.startswith("#") for line in before)
    assert text.count("\n#SBATCH") == len(directives) == 10
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@300", "#SBATCH --open-mode=append"} < directives
