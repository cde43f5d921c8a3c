"""Finished runs without training: what the report reads of a work directory, with errors that a test chooses."""

import json
from collections.abc import Callable
from pathlib import Path

from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import FINISHED_FILE, Plan
from dynet_jax.workdir.files import record


def make_plan(out: Path, **options) -> Plan:
    plan = Plan("digits", "small", out, **options)
    plan.claim().close()
    return plan


def finish(plan: Plan, error: Callable[[Arm, int], float | None]) -> None:
    """error(arm, seed): in %, or None for a run that is not finished."""
    for arm in plan.arms:
        for job in plan.jobs(arm):
            percent = error(arm, job.seed)
            if percent is None:
                continue
            images = {"training images": plan.train_images, "test images": plan.test_images}
            record(job.workdir, plan.config(job), plan.class_names, images)
            rows = [
                {"step": 10, "kind": "train", "loss": 2.0, "learning_rate": 0.1, "images_per_second": 5.0},
                {"step": 20, "kind": "train", "loss": 1.0, "learning_rate": 0.1, "images_per_second": 100.0},
                {"step": 10, "kind": "test", "top1": 0.1, "loss": 2.0},
                {"step": plan.steps, "kind": "test", "top1": 1 - percent / 100, "loss": 1.0},
            ]
            (job.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (job.workdir / FINISHED_FILE).touch()
