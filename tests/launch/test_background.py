"""launch/background.sh runs a command that outlives the connection it was started from."""

import subprocess
import time
from pathlib import Path

import pytest


def test_background_shows_a_run_and_its_code(machine):
    result = machine.run("background.sh", "bash", "-c", 'echo "$1"; exit 75', "x", "a  'b'")
    assert (result.returncode, result.stdout) == (75, "a  'b'\n")


@pytest.mark.slow
def test_background_outlives_its_caller_and_is_taken_up_again(machine):
    command = [str(machine.package / "launch/background.sh"), "bash", "-c"]
    script = 'echo start; trap "echo stopped; exit 75" TERM; for i in {1..300}; do sleep 0.1; done'
    with subprocess.Popen([*command, script], env=machine.environment(), stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "start\n"
        first.kill()
        subprocess.run(["kill", *children_of(first.pid)], check=False)
    with subprocess.Popen(
        [*command, "echo new"], env=machine.environment(), stdout=subprocess.PIPE, text=True
    ) as again:
        assert again.stdout.readline() == "start\n"
        time.sleep(0.5)
        assert machine.run("background.sh", "--stop").returncode == 0
        assert again.stdout.read() == "stopped\n"
        assert again.wait() == 75


def children_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
