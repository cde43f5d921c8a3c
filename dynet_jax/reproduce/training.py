"""Trains what a plan has not trained yet, in several processes side by side, and says how far it is."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynet_jax.errors import UserError
from dynet_jax.machine import cores
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import RUNS_FOLDER, Job, Plan
from dynet_jax.train.progress import duration

SECONDS_BETWEEN_LINES, POLL_SECONDS = 15, 0.5
# What compiling an arm's programs costs, in training steps: for the estimate of the remaining time alone.
STEPS_OF_COMPILING = 300


class Interrupted(UserError):
    """A signal ended it; everything is saved."""

    exit_code = 75


def number_of_workers(wanted: int | None, device: str) -> int:
    """One for each core on a CPU, where small networks leave a second core half idle; one for an accelerator."""
    if wanted is not None:
        return wanted
    return len(cores()) if device == "cpu" else 1


def train_plan(plan: Plan, workers: int, say: Callable[[str], None]) -> dict[Path, str]:
    """Train what is not finished. Returns {work directory: what went wrong} of runs that failed; the others go on.

    Raises Interrupted after SIGTERM or Ctrl-C, when all runs have saved. Run again, it goes on.
    """
    waiting = sorted(plan.unfinished, key=lambda arm_and_jobs: _likely_cost(arm_and_jobs[0]), reverse=True)
    if not waiting:
        return {}
    (plan.out / RUNS_FOLDER).mkdir(exist_ok=True)
    with _Crew(plan, min(workers, len(waiting)), waiting, say) as crew:
        return crew.work()


def _likely_cost(arm: Arm) -> float:
    """Arms that take long come first, so that no core is left alone with one of them at the end."""
    return arm.width * {"dy_mobilenet_v2": 3, "mobilenet_v2": 2}.get(arm.network, 1)


class _Crew:
    """The processes, and what each of them is working on."""

    def __init__(self, plan: Plan, size: int, waiting: list[tuple[Arm, list[Job]]], say: Callable):
        self.plan, self.size, self.waiting, self.say = plan, size, waiting, say
        self.working: dict[subprocess.Popen, tuple[Arm, list[Job]] | None] = {}
        self.failed: dict[Path, str] = {}
        self.answers: queue.Queue[tuple[subprocess.Popen, dict | None]] = queue.Queue()
        self.progress = _Progress(plan, [jobs for _, jobs in waiting])
        self.signalled = False

    def __enter__(self) -> "_Crew":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        if self.signalled:  # once more: at once
            for process in self.working:
                process.kill()
        self.signalled = True

    def __exit__(self, *_) -> None:
        for process in self.working:
            process.stdin.close()  # which ends it
        for process in self.working:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def work(self) -> dict[Path, str]:
        for place in range(self.size):
            self._start(place)
        while any(self.working.values()) and not self.signalled:
            with contextlib.suppress(queue.Empty):
                self._hear(*self.answers.get(timeout=POLL_SECONDS))
            line = self.progress.line([jobs for _, jobs in filter(None, self.working.values())])
            if line:
                self.say(line)
        if self.signalled:
            self._leave()
        return self.failed

    def _start(self, place: int) -> None:
        # Small networks leave cores idle, so each process has its own share of them.
        own = cores()[place :: self.size] if self.size > 1 else []
        process = subprocess.Popen(
            [sys.executable, "-m", "dynet_jax.reproduce.worker", ",".join(map(str, own))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,  # the terminal's Ctrl-C is for this process, which tells the others
        )
        process.place = place
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        self._give_work(process)

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self.answers.put((process, json.loads(line)))
        self.answers.put((process, None))

    def _give_work(self, process: subprocess.Popen) -> None:
        self.working[process] = self.waiting.pop(0) if self.waiting else None
        if self.working[process] is None:
            return
        arm, jobs = self.working[process]
        order = {
            "log": str(self.plan.out / RUNS_FOLDER / f"{arm.name}.log"),
            "jobs": [{"config": self.plan.config(job).to_dict(), "workdir": str(job.workdir)} for job in jobs],
        }
        with contextlib.suppress(OSError):  # one that has ended is noticed by its output
            process.stdin.write(json.dumps(order) + "\n")

    def _hear(self, process: subprocess.Popen, answer: dict | None) -> None:
        if answer is None:
            self._lost(process)
        elif "idle" in answer:
            self._give_work(process)
        elif answer["error"] is not None:
            self.failed[Path(answer["workdir"])] = answer["error"]
            self.say(f"{answer['workdir']} failed: {answer['error']}")

    def _lost(self, process: subprocess.Popen) -> None:
        """It died, of the want of memory perhaps: its runs have failed, another one takes its place."""
        arm_and_jobs = self.working.pop(process)
        if arm_and_jobs is None or self.signalled:
            return
        arm, jobs = arm_and_jobs
        for job in (job for job in jobs if not job.is_finished and job.workdir not in self.failed):
            reason = f"its process ended with exit code {process.wait()}; see {RUNS_FOLDER}/{arm.name}.log"
            self.failed[job.workdir] = reason
            self.say(f"{job.workdir} failed: {reason}")
        self._start(process.place)

    def _leave(self) -> None:
        self.say("stopping: every run saves its state; once more to stop at once")
        for process in self.working:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGTERM)
        for process, work in self.working.items():
            if work is None:
                process.kill()
            process.wait()
        raise Interrupted("stopped; run the same command to go on")


class _Progress:
    """`31/54 runs, 57 % | dy_mobile-w0.25-g6 seed 1: 88/132 | ETA 6m10s`"""

    def __init__(self, plan: Plan, todo: Sequence[Sequence[Job]]):
        self.plan, self.todo = plan, todo
        self.total = sum(STEPS_OF_COMPILING + plan.steps * len(jobs) for jobs in todo)
        self.begun = sum(job.steps_done for jobs in todo for job in jobs)
        self.start, self.last = time.monotonic(), -1e9

    def line(self, working: Sequence[Sequence[Job]]) -> str | None:
        """None if the last one was a moment ago."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return None
        self.last = now
        done = sum(self._done(jobs) for jobs in self.todo) - self.begun
        share = done / max(1, self.total - self.begun)
        eta = duration((now - self.start) * (1 - share) / share) if share > 0.01 else "unknown yet"
        jobs = [job for arm in self.plan.arms for job in self.plan.jobs(arm)]
        finished = sum(job.is_finished for job in jobs)
        current = [next((job for job in jobs if not job.is_finished), None) for jobs in working]
        places = [f"{j.arm.name} seed {j.seed}: {j.steps_done}/{self.plan.steps}" for j in filter(None, current)]
        return " | ".join([f"{finished}/{len(jobs)} runs, {100 * share:.0f} %", *places, f"ETA {eta}"])

    def _done(self, jobs: Sequence[Job]) -> int:
        steps = sum(job.steps_done for job in jobs)
        return steps + STEPS_OF_COMPILING * any(job.is_finished or job.steps_done for job in jobs)
