"""Training of the unfinished runs of a plan, in several processes side by side."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from dynet_jax.errors import UserError
from dynet_jax.machine import cores
from dynet_jax.measure.failures import Ended, Raised
from dynet_jax.measure.worker import Worker
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import RUNS_FOLDER, Job, Plan
from dynet_jax.reproduce.progress import Progress
from dynet_jax.reproduce.results import Results

MODULE = "dynet_jax.reproduce.worker"
POLL_SECONDS = 0.5


class Interrupted(UserError):
    """An error: a signal ended the command; everything is saved."""

    exit_code = 75


class Arrangement(NamedTuple):
    """The number of runs side by side and the cores of each; None for runs on an accelerator, or for all cores."""

    workers: int
    threads: int | None

    def cores_of(self, place: int) -> list[int]:
        """Returns the cores of the worker at this position; empty for all."""
        if self.threads is None:
            return []
        known = cores()
        return sorted({known[(place * self.threads + i) % len(known)] for i in range(self.threads)})


def arrange(workers: int | None, device: str, threads: int | None) -> Arrangement:
    """Returns the arrangement; on a CPU each core trains one network, as small ones leave a second core half idle.

    device: 'cpu' or an accelerator's name. workers: the requested number. threads: that of the plan's earlier runs;
    sums depend on it in the last digits, so all runs of a plan must have the same number.
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
    """Trains unfinished runs. Returns {work directory: what went wrong} for runs that failed; the others continue.

    Raises Interrupted after SIGTERM or Ctrl-C, when all runs have saved. The next call resumes.
    """
    results = Results(plan)
    # Long runs come first, so that no core is left alone with one of them at the end.
    waiting = sorted(plan.unfinished, key=lambda arm_and_jobs: results.macs(arm_and_jobs[0]), reverse=True)
    if not waiting:
        return {}
    (plan.out / RUNS_FOLDER).mkdir(exist_ok=True)
    with _Crew(plan, arrangement, waiting, say) as crew:
        return crew.work()


class _Crew:
    """A process at each position, with a thread that asks it to train; all end when the context is left."""

    def __init__(self, plan: Plan, arrangement: Arrangement, waiting: list[tuple[Arm, list[Job]]], say: Callable):
        self.plan, self.arrangement, self.say = plan, arrangement, say
        self.places = range(min(arrangement.workers, len(waiting)))
        self.waiting = iter(waiting)  # shared: an idle worker takes the next
        self.progress = Progress(plan, [jobs for _, jobs in waiting])
        self.workers: dict[int, Worker] = {}
        self.working: dict[int, list[Job]] = {}
        self.failed: dict[Path, str] = {}
        self.stopping, self.starting = False, threading.Lock()

    def __enter__(self) -> "_Crew":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        self._threads = ThreadPoolExecutor(len(self.places))
        return self

    def _note(self, number, frame):
        if self.stopping:  # the second signal
            for worker in list(self.workers.values()):
                worker.kill()
        self.stopping = True

    def __exit__(self, *_) -> None:
        with self.starting:
            self.stopping = True
        for worker in list(self.workers.values()):
            worker.close()
        self._threads.shutdown()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def work(self) -> dict[Path, str]:
        pending = {self._threads.submit(self._train_at, place) for place in self.places}
        while pending and not self.stopping:
            done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            for thread in done:
                thread.result()  # raises its exception
            if line := self.progress.line(list(self.working.values()), self.failed):
                self.say(line)
        if self.stopping:
            self._leave()
            wait(pending)
            raise Interrupted("stopped; run the same command to resume")
        return self.failed

    def _train_at(self, place: int) -> None:
        """Trains waiting runs until there are none."""
        for arm, jobs in self.waiting:
            self.working[place] = jobs
            for job in jobs:
                if self.stopping:
                    return
                try:
                    self._worker_at(place).ask(self._question(arm, job))
                except Raised as error:
                    self._note_failure(job, str(error))
                except Ended as error:  # for example for lack of memory; another process replaces it
                    if not self.stopping:
                        self.workers.pop(place).close()
                        log = f"{RUNS_FOLDER}/{arm.name}.log"
                        self._note_failure(job, f"its process ended with exit code {error.status}; see {log}")
            del self.working[place]

    def _worker_at(self, place: int) -> Worker:
        with self.starting:  # so that `_leave` knows all processes
            if self.stopping:
                raise Ended("stopping")
            if place not in self.workers:
                self.workers[place] = Worker(MODULE, cores=self.arrangement.cores_of(place))
            return self.workers[place]

    def _question(self, arm: Arm, job: Job) -> dict:
        log, config = self.plan.out / RUNS_FOLDER / f"{arm.name}.log", self.plan.config(job).to_dict()
        about = {"arm": arm.name, "log": str(log), "config": config}
        return about | {"steps": self.plan.steps, "workdir": str(job.workdir)}

    def _note_failure(self, job: Job, reason: str) -> None:
        self.failed[job.workdir] = reason
        self.say(f"{job.workdir} failed: {reason}")

    def _leave(self) -> None:
        self.say("stopping: every run saves its state; send the signal again to stop at once")
        with self.starting:
            for place, worker in self.workers.items():
                if place in self.working:
                    worker.terminate()
                else:
                    worker.kill()
