"""`train.py` in separate processes, started and stopped as by a user, a cluster or an accident."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.quick_compilation import flags

ROOT = Path(__file__).parents[2]
CONFIG = "tests/train/tiny_run.py"
SECONDS = 300


class Run:
    """One process of train.py. Lines of its output are kept in `lines`. It cannot write files over `max_kib`."""

    program: tuple[str, ...] = (sys.executable, "-u", "train.py")

    def __init__(
        self,
        workdir: Path,
        *arguments: str,
        devices: int = 1,
        environment: dict | None = None,
        max_kib: int | None = None,
        config: str = CONFIG,
    ):
        command = [*self.program, f"--config={config}", f"--workdir={workdir}", *arguments]
        if max_kib is not None:
            command = ["bash", "-c", f'ulimit -f {max_kib}; exec "$@"', "bash", *command]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags(devices), "PYTHON": sys.executable, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, beginning: str) -> str:
        """The first line that begins like this."""
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(beginning):
                return line
        raise AssertionError(f"no line begins with {beginning!r}:\n{self.output}")

    def finish(self) -> int:
        """Read to the end; the exit code."""
        output, _ = self.process.communicate(timeout=SECONDS)
        self.lines.append(output)
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.lines)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def two_hosts(
    workdir: Path, *arguments: str, each: tuple = ((), ()), options: tuple = ({}, {}), devices: int = 2
) -> list[Run]:
    """Two processes that are one run; `each` has the arguments, `options` those of Run, that only one of them gets."""
    common = (f"--coordinator=localhost:{free_port()}", "--processes=2", "--heartbeat_timeout=10", *arguments)
    return [
        Run(workdir, *common, f"--process={host}", *each[host], **{"devices": devices, **options[host]})
        for host in range(2)
    ]
