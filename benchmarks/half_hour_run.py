"""One section of `benchmarks.gpu_half_hour`: a process with a time limit, and what is kept of it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.half_hour_sections import Section
from dynet_jax import json_lines

GRACE = 30.0  # seconds from the time limit to SIGTERM, and from there to SIGKILL
STOPPED = 75  # the exit status of a training run that has saved and can be resumed
KEPT_OUTPUT = 6000  # characters from the end of what a process prints
FINISHED = "finished"
ROOT = Path(__file__).parents[1]


def run_section(section: Section, seconds: float, folder: Path, held: Sequence[int] = ()) -> dict:
    """Runs a section and returns its record; whatever happens to the process is in it.

    seconds: for the process; it gets SIGTERM when they are over, or later if it keeps to the limit itself.
    held: file descriptors that the process inherits, such as a lock that lasts as long as it does.
    """
    command, limit = [sys.executable, *section.command], seconds
    if section.keeps_time:
        command.append(f"--limit={seconds:.0f}")
        limit += GRACE
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}  # sections share programs, and those run again
    begin = time.monotonic()
    with (folder / f"{section.name}.out").open("w+b") as output, (folder / f"{section.name}.err").open("w+b") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **cache, "PYTHONPATH": str(ROOT), **section.environment},
            stdout=output,
            stderr=errors,
            pass_fds=held,
            start_new_session=True,  # so that the processes that it starts end with it
        )
        try:
            ended = _wait(process, limit)
        finally:
            _signal(process, signal.SIGKILL)  # nothing may stay on the card
            with contextlib.suppress(subprocess.TimeoutExpired):  # a broken driver may hold it for ever
                process.wait(GRACE)
    return {
        "status": _status(process.returncode, ended, limit),
        "exit_status": process.returncode,
        "seconds": round(time.monotonic() - begin, 1),
        "limit": round(seconds, 1),
        "command": list(section.command),
        "environment": dict(section.environment),
        "rows": rows_of(section, folder),
        "output": _end_of(folder / f"{section.name}.out"),
        "errors": _end_of(folder / f"{section.name}.err"),
    }


def rows_of(section: Section, folder: Path) -> list[dict]:
    """Returns all results that a section has written so far; with the name of the file if there may be several."""
    rows = []
    for pattern in section.results:
        for file in sorted(folder.glob(pattern)):
            of = {"file": str(file.relative_to(folder))} if "*" in pattern else {}
            rows += [{**of, **row} for row in json_lines.read(file)[0]]
    return rows


def _wait(process: subprocess.Popen, limit: float) -> bool:
    """Returns whether the process ended by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit)
        return True
    _signal(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    return False


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _status(code: int | None, ended: bool, limit: float) -> str:
    if code == STOPPED:
        return "stopped"
    if not ended or code is None:
        return f"over {limit:.0f} s"
    if code < 0:
        return f"died: signal {-code}"
    return FINISHED if code == 0 else f"exit status {code}"


def _end_of(file: Path) -> str:
    return file.read_text(errors="replace")[-KEPT_OUTPUT:]
