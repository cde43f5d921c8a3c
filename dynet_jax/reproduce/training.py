"""Trains what a plan has not trained yet, in several processes side by side."""

import contextlib
import dataclasses
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dynet_jax.errors import UserError
from dynet_jax.machine import cores
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import RUNS_FOLDER, Job, Plan
from dynet_jax.reproduce.progress import Progress

POLL_SECONDS = 0.5


class Interrupted(UserError):
    """A signal ended it; everything is saved."""

    exit_code = 75


class Arrangement(NamedTuple):
    """How many runs side by side, and how many cores each has; None for an accelerator's runs, or all cores."""

    workers: int
    threads: int | None

    def cores_of(self, place: int) -> list[int]:
        """Of the worker at this place; empty for all."""
        if self.threads is None:
            return []
        known = cores()
        return sorted({known[(place * self.threads + i) % len(known)] for i in range(self.threads)})


def arrange(workers: int | None, device: str, threads: int | None) -> Arrangement:
    """Small networks leave a second core half idle, so that on a CPU each core trains another one.

    device: 'cpu' or an accelerator's name. workers: what was asked for. threads: what the plan's earlier runs had: sums
    depend on their number in the last digits, so that runs of one plan have equally many.
    Raises UserError for several workers on an accelerator.
    """
    if device != "cpu":
        if workers not in (None, 1):
            raise UserError(f"--workers={workers} is for CPUs: one process has all of the memory of {device}")
        return Arrangement(1, None)
    count = len(cores())
    threads = threads or max(1, count // (workers or count))
    return Arrangement(workers or max(1, count // threads), threads)


def train_plan(plan: Plan, arrangement: Arrangement, say: Callable[[str], None]) -> dict[Path, str]:
    """Train what is not finished. Returns {work directory: what went wrong} of runs that failed; the others go on.

    Raises Interrupted after SIGTERM or Ctrl-C, when all runs have saved. Run again, it goes on.
    """
    waiting = sorted(plan.unfinished, key=lambda arm_and_jobs: _likely_cost(arm_and_jobs[0]), reverse=True)
    if not waiting:
        return {}
    (plan.out / RUNS_FOLDER).mkdir(exist_ok=True)
    with _Crew(plan, arrangement, waiting, say) as crew:
        return crew.work()


def _likely_cost(arm: Arm) -> float:
    """Arms that take long come first, so that no core is left alone with one of them at the end."""
    return arm.width * {"dy_mobilenet_v2": 3, "mobilenet_v2": 2}.get(arm.network, 1)


@dataclasses.dataclass(eq=False)
class _Worker:
    """A process, its place among the others, and what it is working on; None if there is nothing left."""

    process: subprocess.Popen
    place: int
    work: tuple[Arm, list[Job]] | None = None


class _Crew:
    """The workers; they end when the context is left."""

    def __init__(self, plan: Plan, arrangement: Arrangement, waiting: list[tuple[Arm, list[Job]]], say: Callable):
        self.plan, self.arrangement, self.waiting, self.say = plan, arrangement, waiting, say
        self.workers: list[_Worker] = []
        self.failed: dict[Path, str] = {}
        self.answers: queue.Queue[tuple[_Worker, dict | None]] = queue.Queue()
        self.progress = Progress(plan, [jobs for _, jobs in waiting])
        self.signalled = False

    def __enter__(self) -> "_Crew":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        if self.signalled:  # once more: at once
            for worker in self.workers:
                worker.process.kill()
        self.signalled = True

    def __exit__(self, *_) -> None:
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.process.stdin.close()  # which ends it
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=10)
            worker.process.kill()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def work(self) -> dict[Path, str]:
        for place in range(min(self.arrangement.workers, len(self.waiting))):
            self._start(place)
        while any(worker.work for worker in self.workers) and not self.signalled:
            with contextlib.suppress(queue.Empty):
                self._hear(*self.answers.get(timeout=POLL_SECONDS))
            line = self.progress.line([worker.work[1] for worker in self.workers if worker.work], self.failed)
            if line:
                self.say(line)
        if self.signalled:
            self._leave()
        return self.failed

    def _start(self, place: int) -> None:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dynet_jax.reproduce.worker",
                ",".join(map(str, self.arrangement.cores_of(place))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,  # the terminal's Ctrl-C is for this process, which tells the others
        )
        worker = _Worker(process, place)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        self._give_work(worker)

    def _listen(self, worker: _Worker) -> None:
        try:
            for line in worker.process.stdout:
                with contextlib.suppress(ValueError):  # what a library prints before the worker has begun
                    self.answers.put((worker, json.loads(line)))
        finally:
            self.answers.put((worker, None))

    def _give_work(self, worker: _Worker) -> None:
        worker.work = self.waiting.pop(0) if self.waiting else None
        if worker.work is None:
            return
        arm, jobs = worker.work
        order = {
            "log": str(self.plan.out / RUNS_FOLDER / f"{arm.name}.log"),
            "jobs": [
                {"config": self.plan.config(job).to_dict(), "steps": self.plan.steps, "workdir": str(job.workdir)}
                for job in jobs
            ],
        }
        with contextlib.suppress(OSError):  # one that has ended is noticed by its output
            worker.process.stdin.write(json.dumps(order) + "\n")

    def _hear(self, worker: _Worker, answer: dict | None) -> None:
        if answer is None:
            self._lost(worker)
        elif "idle" in answer:
            self._give_work(worker)
        elif answer["error"] is not None:
            self._note_failure(Path(answer["workdir"]), answer["error"])

    def _note_failure(self, workdir: Path, reason: str) -> None:
        self.failed[workdir] = reason
        self.say(f"{workdir} failed: {reason}")

    def _lost(self, worker: _Worker) -> None:
        """It died, of the want of memory perhaps: its runs have failed, another one takes its place."""
        self.workers.remove(worker)
        worker.process.kill()
        if worker.work is None or self.signalled:
            return
        arm, jobs = worker.work
        for job in (job for job in jobs if not job.is_finished and job.workdir not in self.failed):
            reason = f"its process ended with exit code {worker.process.wait()}; see {RUNS_FOLDER}/{arm.name}.log"
            self._note_failure(job.workdir, reason)
        if self.waiting:
            self._start(worker.place)

    def _leave(self) -> None:
        self.say("stopping: every run saves its state; once more to stop at once")
        for worker in self.workers:
            if worker.work is None:
                worker.process.kill()
            else:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.wait()
        raise Interrupted("stopped; run the same command to go on")
