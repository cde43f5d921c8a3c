"""The results of a plan's finished runs."""

from collections.abc import Sequence

from dynet_jax.measure.turns import quartiles
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import Job, Plan, last_evaluation
from dynet_jax.reproduce.statistics import Sample
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics


class Results:
    """Errors and speeds by arm, of finished runs only; comparisons use the seeds that both arms have finished."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._rows = {arm: self._finished_rows(arm) for arm in plan.arms}

    def _finished_rows(self, arm: Arm) -> dict[int, list[dict]]:
        """Returns test rows by seed, of runs with a last evaluation."""
        jobs = [job for job in self.plan.jobs(arm) if job.is_finished]
        return {job.seed: self.test_rows(job) for job in jobs if last_evaluation(job.workdir, self.plan.steps)}

    def seeds(self, *arms: Arm) -> list[int]:
        """Returns the seeds that all of the arms have finished."""
        return [seed for seed in self.plan.seeds if all(seed in self._rows[arm] for arm in arms)]

    def errors(self, arm: Arm, *, beside: Sequence[Arm] = ()) -> Sample:
        """Returns top-1 errors on the test set after the last step, in %, of the finished seeds.

        beside: other arms that must have finished the seeds too.
        """
        rows = [self._rows[arm][seed][-1] for seed in self.seeds(arm, *beside)]
        return Sample(tuple(100 * (1 - row["top1"]) for row in rows), 100 / self.plan.test_images)

    def test_losses(self, arm: Arm) -> Sample:
        """Returns the test losses after the last step.

        (The training loss of a run that was stopped is an average over another number of steps.)
        """
        rows = [self._rows[arm][seed][-1] for seed in self.seeds(arm)]
        return Sample(tuple(row["loss"] for row in rows))

    def images_per_second(self, arm: Arm) -> tuple[float, float, float]:
        """Returns quartiles over the training reports of all runs, without each run's first, which includes warm-up."""
        rates = []
        for seed in self.seeds(arm):
            rows = read_metrics(self.plan.job(arm, seed).workdir / METRICS_FILE, "train")
            rates += [row["images_per_second"] for row in (rows[1:] or rows)]
        return quartiles(rates)

    def test_rows(self, job: Job) -> list[dict]:
        """Returns test rows in the order of steps, each with 'step' and 'top1'."""
        return read_metrics(job.workdir / METRICS_FILE, "test")

    def macs(self, arm: Arm) -> int:
        """Returns all multiply-adds of one image."""
        config = self.plan.common
        return arm.macs(config.data.image_size, len(self.plan.class_names), config.model.small_input)
