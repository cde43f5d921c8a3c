"""launch/worker.sh starts train.py, passes signals on, and starts it again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.machine import ARGUMENTS


def test_worker_is_train_py_with_the_same_arguments(machine):
    machine.record("python3", answer="exit 75")
    result = machine.run("worker.sh", *ARGUMENTS)
    assert result.returncode == 75
    assert machine.calls == [["python3", "-u", "train.py", *ARGUMENTS]]


@pytest.mark.parametrize(
    ("codes", "restarts", "code", "starts"),
    [("75 134 0", 5, 0, 3), ("75", 2, 75, 3), ("75 2 0", 5, 2, 2), ("0", 5, 0, 1), ("75", 0, 75, 1)],
)
def test_worker_starts_again(machine, codes, restarts, code, starts):
    machine.record(
        "python3", answer=f'codes=({codes}); n=$(grep -c train.py -z "$here/calls"); exit ${{codes[n-1]-75}}'
    )
    (machine.bin / "grep").symlink_to(shutil.which("grep"))
    result = machine.run("worker.sh", "--config=a b", RESTARTS=str(restarts))
    assert result.returncode == code, result.stderr
    assert machine.calls == [["python3", "-u", "train.py", "--config=a b"]] * starts


SAVES_IN_A_SECOND = """#!/usr/bin/env python3
import os, signal, sys, time
def note(*_):
    os.write(1, b"signal\\n")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(1)
    os._exit(75)
signal.signal(signal.SIGTERM, note)
os.write(1, b"ready\\n")
time.sleep(30)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into Linux's /proc")
@pytest.mark.parametrize("everyone", [False, True], ids=["this process", "every process"])
def test_a_signal_reaches_train_py_once(machine, everyone):
    """A second one would end it without a checkpoint."""
    python = machine.home / "python"
    python.write_text(SAVES_IN_A_SECOND.replace("/usr/bin/env python3", sys.executable))
    python.chmod(0o755)
    command = [str(machine.package / "launch/worker.sh"), "x"]
    environment = machine.environment(RESTARTS="5", PYTHON=str(python))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        assert len(children) == 2  # train.py and the sentinel
        for child in children if everyone else []:
            os.kill(int(child), signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)
        assert worker.stdout.read() == "signal\n"
        assert worker.wait(10) == 75
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_suspended_train_py_is_waited_for_in_peace(machine):
    """`wait` returns at once for it; asking without a pause would take a core."""
    python = machine.home / "python"
    python.write_text("#!/usr/bin/env bash\necho $$\nkill -STOP $$\nexit 7\n")
    python.chmod(0o755)
    command = [str(machine.package / "launch/worker.sh"), "x"]
    environment = machine.environment(RESTARTS="5", PYTHON=str(python))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        child = int(worker.stdout.readline())
        time.sleep(1)
        ticks = sum(map(int, Path(f"/proc/{worker.pid}/stat").read_text().split()[13:15]))
        os.kill(child, signal.SIGCONT)
        assert worker.wait(10) == 7
    assert ticks < 0.3 * os.sysconf("SC_CLK_TCK")
