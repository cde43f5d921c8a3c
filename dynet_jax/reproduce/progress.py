"""The line that a person reads while a plan is trained."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from dynet_jax.console import duration
from dynet_jax.reproduce.plan import Job, Plan

SECONDS_BETWEEN_LINES = 15
# What compiling an arm's programs costs, in training steps: for the estimate of the remaining time alone.
STEPS_OF_COMPILING = 300


class Progress:
    """`31/54 runs, 57 % of what was to be done | dy_mobile-w0.25-g6 seed 1: 88/132 | ETA of training 6m10s`"""

    def __init__(self, plan: Plan, todo: Sequence[Sequence[Job]]):
        """todo: the runs of each arm that this command trains."""
        self.plan, self.todo = plan, todo
        self.total = sum(STEPS_OF_COMPILING + plan.steps * len(jobs) for jobs in todo)
        self.begun = {job.workdir: job.steps_done for jobs in todo for job in jobs}
        self.start, self.last = time.monotonic(), -1e9

    def line(self, working: Sequence[Sequence[Job]], failed: Collection[Path]) -> str | None:
        """working: the runs that workers have been given. None if the last line was a moment ago."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return None
        self.last = now
        done = sum(self._done(jobs, failed) for jobs in self.todo)
        share = done / max(1, self.total - sum(self.begun.values()))
        eta = duration((now - self.start) * (1 - share) / share) if share > 0.01 else "unknown yet"
        jobs = [job for arm in self.plan.arms for job in self.plan.jobs(arm)]
        finished = sum(job.is_finished for job in jobs)
        current = [
            next((job for job in jobs if not job.is_finished and job.workdir not in failed), None) for jobs in working
        ]
        places = [f"{job.arm.name} seed {job.seed}: {self._place(job)}" for job in filter(None, current)]
        left = f"ETA of training {eta}, measurements follow"
        return " | ".join([f"{finished}/{len(jobs)} runs, {100 * share:.0f} % of what was to be done", *places, left])

    def _place(self, job: Job) -> str:
        return f"{job.steps_done}/{self.plan.steps}" if job.steps_done else "compiling, or before its first report"

    def _done(self, jobs: Sequence[Job], failed: Collection[Path]) -> int:
        """Steps made by this command, compilation and what is not to be made included."""
        steps = [
            self.plan.steps - self.begun[job.workdir]
            if job.workdir in failed
            else max(0, job.steps_done - self.begun[job.workdir])
            for job in jobs
        ]
        return sum(steps) + STEPS_OF_COMPILING * any(steps)
