"""The progress line of the training of a plan."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from dynet_jax.console import duration
from dynet_jax.reproduce.plan import Job, Plan

SECONDS_BETWEEN_LINES = 15
# The cost of compiling an arm's programs, in training steps; only for the estimate of the remaining time.
STEPS_OF_COMPILING = 300


class Progress:
    """The line `31/54 runs, 57 % of this command's work | dy_mobile-w0.25-g6 seed 1: 88/132 | ETA of training 6m`."""

    def __init__(self, plan: Plan, todo: Sequence[Sequence[Job]]):
        """todo: the runs of each arm to be trained by this command."""
        self.plan, self.todo = plan, todo
        self.total = sum(STEPS_OF_COMPILING + plan.steps * len(jobs) for jobs in todo)
        self.begun = {job.workdir: job.steps_done for jobs in todo for job in jobs}
        self.start, self.last = time.monotonic(), -1e9

    def line(self, working: Sequence[Sequence[Job]], failed: Collection[Path]) -> str | None:
        """Returns the line, or None soon after the last one. working: the runs that were given to workers."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return None
        self.last = now
        done = sum(self._done(jobs, failed) for jobs in self.todo)
        share = done / max(1, self.total - sum(self.begun.values()))
        eta = duration((now - self.start) * (1 - share) / share) if share > 0.01 else "unknown"
        jobs = [job for arm in self.plan.arms for job in self.plan.jobs(arm)]
        finished = sum(job.is_finished for job in jobs)
        current = [
            next((job for job in jobs if not job.is_finished and job.workdir not in failed), None) for jobs in working
        ]
        places = [f"{job.arm.name} seed {job.seed}: {self._place(job)}" for job in filter(None, current)]
        left = f"ETA of training {eta}, measurements follow"
        return " | ".join([f"{finished}/{len(jobs)} runs, {100 * share:.0f} % of this command's work", *places, left])

    def _place(self, job: Job) -> str:
        return f"{job.steps_done}/{self.plan.steps}" if job.steps_done else "compiling, or before its first report"

    def _done(self, jobs: Sequence[Job], failed: Collection[Path]) -> int:
        """Returns the completed steps of this command, including compilation and steps that will not be made."""
        steps = [
            self.plan.steps - self.begun[job.workdir]
            if job.workdir in failed
            else max(0, job.steps_done - self.begun[job.workdir])
            for job in jobs
        ]
        return sum(steps) + STEPS_OF_COMPILING * any(steps)
