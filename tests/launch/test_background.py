"""launch/background.sh runs a command that outlives the connection it was started from."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

STOPPED = 76
# Ends with 75 at a signal, after a second, and tells of every one.
SAVES = """trap 'echo signal; stop=yes' TERM; echo start
until [[ ${stop-} ]]; do sleep 0.1; done; for i in {1..10}; do sleep 0.1; done; echo saved; exit 75"""


@contextmanager
def background(machine, *command: str):
    path = str(machine.package / "launch/background.sh")
    with subprocess.Popen(
        [path, *command], env=machine.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            machine.run("background.sh", "--stop")


def state(machine) -> Path:
    (folder,) = (machine.home / ".dynet_jax_run").iterdir()
    return folder


def run_folder(machine) -> Path:
    return Path((state(machine) / "last").read_text().strip())


def code_of(machine) -> str:
    return machine.run("background.sh", "--code").stdout.removeprefix("exit code of this host: ").strip()


def test_background_shows_a_run_and_its_code(machine):
    assert (code_of(machine), machine.run("background.sh", "--running").returncode) == ("255", 1)
    result = machine.run("background.sh", "bash", "-c", 'echo "$1"; exit 75', "x", "a  'b'")
    assert (result.returncode, result.stdout, result.stderr) == (75, "a  'b'\n", "")
    assert code_of(machine) == "75"
    assert machine.run("background.sh", "bash", "-c", "echo again").stdout == "again\n"
    assert code_of(machine) == "0"


@pytest.mark.slow
def test_background_outlives_its_caller_and_is_taken_up_again(machine):
    command = ("bash", "-c", SAVES)
    with background(machine, *command) as first:
        assert first.stdout.readline() == "start\n"
        first.kill()
        subprocess.run(["kill", *children_of(first.pid)], check=False)
        assert machine.run("background.sh", "--running").returncode == 0
        with background(machine, *command) as again:
            assert again.stdout.readline() == "start\n"
            time.sleep(0.5)
            assert machine.run("background.sh", "--stop").returncode == 0
            assert again.stdout.read() == "signal\nsaved\n"
            assert again.wait() == STOPPED


@pytest.mark.slow
def test_another_command_is_refused(machine):
    with background(machine, "bash", "-c", SAVES) as first:
        first.stdout.readline()
        other = machine.run("background.sh", "bash", "-c", "echo other")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.startswith("background.sh: another command is under way, which --stop would end: bash -c ")
    assert len(other.stderr.splitlines()) == 1


def test_a_stop_holds_until_a_new_run(machine):
    """This includes a script that pauses between two starts."""
    assert machine.run("background.sh", "bash", "-c", "exit 75").returncode == 75
    assert machine.run("background.sh", "--stop").returncode == 0
    result = machine.run("background.sh", "bash", "-c", "echo no")
    assert (result.returncode, result.stdout) == (STOPPED, "")
    assert code_of(machine) == str(STOPPED)
    assert machine.run("background.sh", "--new").returncode == 0
    assert code_of(machine) == "255"
    assert machine.run("background.sh", "bash", "-c", "echo yes").stdout == "yes\n"


@pytest.mark.parametrize(("code", "shown"), [(0, 0), (1, 1), (2, 2), (134, STOPPED)])
def test_what_a_stopped_run_ends_with(machine, code, shown):
    """A failure remains a failure."""
    with background(
        machine, "bash", "-c", f"trap 'exit {code}' TERM; echo start; while true; do sleep 0.1; done"
    ) as run:
        run.stdout.readline()
        machine.run("background.sh", "--stop")
        assert run.wait(10) == shown


@pytest.mark.slow
def test_a_second_stop_is_no_second_signal(machine):
    with background(machine, "bash", "-c", SAVES) as run:
        run.stdout.readline()
        command = [str(machine.package / "launch/background.sh"), "--stop"]
        stops = [subprocess.Popen(command, env=machine.environment())]
        assert run.stdout.readline() == "signal\n"
        stops.append(subprocess.Popen(command, env=machine.environment()))
        assert [stop.wait(10) for stop in stops] == [0, 0]
        assert run.stdout.read() == "saved\n"


def test_what_a_command_leaves_behind_does_not_hold_the_lock(machine):
    orphan = 'sleep 60 & echo "$!"; exit 3'
    result = machine.run("background.sh", "bash", "-c", orphan)
    try:
        assert result.returncode == 3
        assert machine.run("background.sh", "--running").returncode == 1
        assert machine.run("background.sh", "bash", "-c", "echo next").stdout == "next\n"
    finally:
        os.kill(int(result.stdout), signal.SIGKILL)


@pytest.mark.slow
def test_a_signal_to_the_keeper_leaves_the_run_as_it_is(machine):
    with background(machine, "bash", "-c", "echo start; sleep 1.5; exit 9") as run:
        run.stdout.readline()
        os.kill(parent_of((run_folder(machine) / "command-pid").read_text().strip()), signal.SIGTERM)
        time.sleep(0.3)
        assert machine.run("background.sh", "--running").returncode == 0
        assert run.wait(10) == 9


@pytest.mark.slow
def test_hosts_that_share_a_home_keep_apart(machine):
    with background(machine, "bash", "-c", SAVES) as run:
        run.stdout.readline()
        (machine.bin / "uname").unlink()
        machine.record("uname", answer="echo another")
        assert machine.run("background.sh", "--running").returncode == 1
        assert machine.run("background.sh", "bash", "-c", "echo here").stdout == "here\n"
        assert len(list((machine.home / ".dynet_jax_run").iterdir())) == 2
        (machine.bin / "uname").write_text("#!/usr/bin/env bash\nexec /bin/uname -n\n")


@pytest.mark.slow
def test_many_that_start_at_once_share_one_run(machine):
    command = [str(machine.package / "launch/background.sh"), "bash", "-c", "echo $$; sleep 1; exit 4"]
    callers = [
        subprocess.Popen(command, env=machine.environment(), stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    outputs = {caller.communicate(timeout=30)[0] for caller in callers}
    assert (len(outputs), {caller.returncode for caller in callers}) == (1, {4})


def test_old_runs_are_removed(machine):
    for _ in range(4):
        machine.run("background.sh", "true")
    assert len(list(state(machine).glob("run.*"))) == 2


def parent_of(pid: str) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid:"))
    return int(line.split()[1])


def children_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
