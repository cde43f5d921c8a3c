"""The steps of a run and the work between them: reports, checkpoints, evaluations, and stopping early."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from dynet_jax import bucket
from dynet_jax.analysis.plots import plot_training_curves
from dynet_jax.console import warn
from dynet_jax.data import training_batches
from dynet_jax.devices import to_devices
from dynet_jax.evaluation.evaluate import evaluate
from dynet_jax.tasks.sums import means
from dynet_jax.train.divergence import diverged, first_bad_step
from dynet_jax.train.interruption import StopVote
from dynet_jax.train.metrics import MetricWriter
from dynet_jax.train.movement import DeadCoefficients
from dynet_jax.train.profile import Profile
from dynet_jax.train.progress import Progress
from dynet_jax.train.startup import Start
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.metrics import read_metrics

INTERRUPTED = 75  # EX_TEMPFAIL: "start me again"
LEAST_REPORTS = 10  # of a run that has so many steps


class Session:
    """One process's part in a run: the resources that are open from start to end, and the handling of each event."""

    def __init__(self, start: Start, workdir: Path, vote: StopVote, profile_steps: int):
        self.start, self.workdir, self.vote = start, workdir, vote
        assert start.held is not None
        self.held, files = start.held, start.held.files
        self.run, self.train_source, self.test_source = start.run, start.train_source, start.test_source
        self.config = self.run.config
        self.progress = Progress(self.run.total_steps, self.config.batch_size)
        keep, guard = self.config.keep_checkpoints, self.held.before_commit
        with bucket.told(workdir):
            self.checkpoints = Checkpoints(workdir, keep, tidy=True, before_commit=guard)
        self.writer = MetricWriter(files, enabled=jax.process_index() == 0)
        self.profile = Profile(files, profile_steps, say=self.progress.say, shown=workdir)
        self.illustrate = self.run.task.illustrator(self.run.model, self.test_source, **self.run.pixels)
        speak = warn if jax.process_index() == 0 else lambda line: None
        self.dead = DeadCoefficients(self.run.total_steps, speak, self.run.annealed_at)
        self.window: list[dict] = []  # sums of the steps since the last report
        self.ready: tuple[int, list[dict]] | None = None  # a finished window, not yet reported
        for row in read_metrics(self.writer.path, "test"):
            self.checkpoints.score(row["step"], row[self.run.task.score])

    def train(self, state: TrainState, train_step: Callable, eval_step: Callable) -> int:
        """Trains from a state to the end, or to a signal. Returns the process's exit code."""
        first_step = int(state.step)
        self.progress.start(first_step)
        if self._evaluation_is_missing(first_step) and not self._evaluate(first_step, state, eval_step):
            return self._leave(state)
        batches, total = self._batches(first_step), self.run.total_steps
        for step in range(first_step + 1, total + 1):
            state, sums = train_step(state, self.vote.attach(next(batches)))
            self.window.append(self.vote.count(sums))
            self.profile.after(step - first_step, state)
            # A finished window is read after the next step has been dispatched, so that reading never stalls a device.
            self._report_ready()
            self.checkpoints.check()
            self.held.check()

            last = step == total
            stop = self.vote.decided and not last
            evaluation = self._evaluation_is_due(step) and not stop
            if last or stop or self._is_reported(step):
                self.ready, self.window = (step, self.window), []
            if last or stop or evaluation or step % self.config.checkpoint_every_steps == 0:
                self._report_ready()
                self._refuse_divergence(step, self.window)  # a bad state must never replace a good checkpoint
                self.checkpoints.save(state, wait=stop)
            if stop or (evaluation and not self._evaluate(step, state, eval_step)):
                return self._leave(state)
        return self._finish(state)

    def _leave(self, state: TrainState) -> int:
        self.checkpoints.save(state, wait=True)
        self.progress.say(f"stopped at step {int(state.step)}, saved; run the same command to resume")
        return INTERRUPTED

    def _finish(self, state: TrainState) -> int:
        self.checkpoints.save(state, wait=True)
        self.progress.say(f"done: curves in {self.workdir / 'curves.png'}; try `dynet predict {self.workdir} IMAGE`")
        return 0

    def close(self) -> bool:
        """Closes everything. Returns whether all files are in their final place."""
        self.profile.close()
        self.checkpoints.close()
        self.writer.close()
        return self.held.close()

    def _batches(self, first_step: int) -> Iterator[dict]:
        """Yields batches on the devices, two steps ahead of the computation."""
        host_batches = training_batches(
            self.train_source,
            self.run.task.training_transform(),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=first_step,
            host=jax.process_index(),
            hosts=jax.process_count(),
            threads=self.config.data.threads,
            workers=self.config.data.workers,
            corrupt=self.run.corrupt,
        )
        ahead: deque[dict] = deque()
        for batch in host_batches:
            ahead.append(to_devices(batch, self.run.layout))
            if len(ahead) > 2:
                yield ahead.popleft()

    def _is_reported(self, step: int) -> bool:
        """Returns whether a report is due: every log_every_steps, or more often, so that a short run has ten reports.

        A short remainder, which alone would be noise, joins the report at the end.
        """
        every = min(self.config.log_every_steps, max(1, self.run.total_steps // LEAST_REPORTS))
        return step % every == 0 and self.run.total_steps - step >= every

    def _evaluation_is_due(self, step: int) -> bool:
        every = max(1, round(self.config.eval_every_epochs * self.run.steps_per_epoch))
        return step == self.run.total_steps or (step > 0 and step % every == 0)

    def _evaluation_is_missing(self, step: int) -> bool:
        """Returns whether the run stopped after saving that step, before its evaluation ended, or is already done."""
        evaluated = {row["step"] for row in read_metrics(self.writer.path, "test")}
        return self._evaluation_is_due(step) and (step not in evaluated or step == self.run.total_steps)

    def _report_ready(self) -> None:
        if self.ready is None:
            return
        (step, window), self.ready = self.ready, None
        self._refuse_divergence(step, window)
        values = means(window)
        learning_rate = float(self.run.schedule(step - 1))  # pyrefly: ignore[bad-argument-type]  (not complex)
        shown, completed = self.run.task.progress(values), step + self._completed()
        rate = self.progress.report(step, values["loss"], shown, learning_rate, completed=completed)
        self.writer.write(step, "train", {**values, "learning_rate": learning_rate, "images_per_second": rate})
        self.dead.look(step, values)

    def _completed(self) -> int:
        """Returns how many steps of the window in progress the devices have finished; a CPU may be a step ahead."""
        done = [all(value.is_ready() for value in sums.values()) for sums in self.window]
        return done.index(False) if False in done else len(done)

    def _refuse_divergence(self, step: int, window: list[dict]) -> None:
        bad = first_bad_step(window, step)
        if bad:
            workdir, saved = self.workdir, self.checkpoints.latest_step
            raise diverged(self.run, self.train_source, *bad, self.held.files, workdir, saved)

    def _evaluate(self, step: int, state: TrainState, eval_step: Callable) -> bool:
        """Evaluates and reports. Returns False if a signal ended it early."""
        jax.block_until_ready(state.step)  # pending steps count as training, not as evaluation
        with self.progress.paused():
            values = evaluate(self.run, eval_step, state.averaged_variables, self.test_source, self.vote)
            if values is None:
                return False
            self.progress.say(
                f"  test at step {step}: {self.run.task.report(values)} | loss {values['loss']:.3f} | "
                f"{values['examples']} images"
            )
            self.checkpoints.score(step, values[self.run.task.score])
            self.writer.write(step, "test", values)
            if jax.process_index() == 0:
                local = jax.device_get(state.averaged_variables)  # the other hosts do not take part
                self.writer.write_images(step, self.illustrate(local))
                self._plot_curves()
        return True

    def _plot_curves(self) -> None:
        rows = {kind: read_metrics(self.writer.path, kind) for kind in ("train", "test")}
        title = f"{self.config.model.name} on {self.config.data.name}"
        try:
            plot_training_curves(rows, self.run.task, self.held.files / "curves.png", title)
        except OSError as error:
            warn(f"curves.png could not be drawn ({error.strerror})")
