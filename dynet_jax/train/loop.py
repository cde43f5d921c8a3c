"""Training from a configuration to a trained work directory.

Order of events: check everything, restore or initialise, compile, then for each step: batch, step, log, save,
evaluate. Running the same command again goes on from the newest whole checkpoint; the data needs no state, as batch n
is a function of n.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections

from dynet_jax.analysis.plots import plot_training_curves
from dynet_jax.console import warn
from dynet_jax.data import training_batches
from dynet_jax.errors import HostLost, UserError, one_line
from dynet_jax.tasks.sums import means
from dynet_jax.train.compilation import Programs
from dynet_jax.train.distributed import to_devices
from dynet_jax.train.divergence import diverged, first_bad_step
from dynet_jax.train.evaluate import evaluate
from dynet_jax.train.init_from import initialise_from
from dynet_jax.train.interruption import Interruption, StopVote
from dynet_jax.train.metrics import MetricWriter
from dynet_jax.train.movement import DeadCoefficients
from dynet_jax.train.optim import explain_patterns
from dynet_jax.train.profile import Profile
from dynet_jax.train.progress import Progress
from dynet_jax.train.startup import Start, start_up
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import record
from dynet_jax.workdir.metrics import read_metrics

INTERRUPTED = 75  # EX_TEMPFAIL: "start me again"
# What is in an error when the connection to another host breaks: by Gloo, NCCL, gRPC.
LOST = ("gloo", "nccl", "connection", "unavailable", "deadline", "heartbeat", "peer", "aborted", "cancelled")


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    allow_config_change: bool = False,
    profile_steps: int = 0,
    programs: Programs | None = None,
) -> int:
    """Train to the end, or to the first SIGTERM or Ctrl-C. Returns the process's exit code, 0 or INTERRUPTED.

    `programs` are shared by runs of one process that differ in their seed alone, so that only the first one compiles.
    After INTERRUPTED a compilation may still be running in the background; end the process by `os._exit` then.

    Writes into `workdir`: config.json, labels.json, metrics.jsonl, tensorboard/, curves.png, checkpoints/.
    Raises UserError for whatever the user can mend.
    """
    with Interruption() as interruption:
        start = start_up(config, workdir, allow_config_change=allow_config_change)
        session = _Session(start, workdir, interruption, profile_steps, programs or Programs())
        try:
            return session.run_to_end()
        except jax.errors.JaxRuntimeError as error:
            raise _explained(error, config, start, session.checkpoints) from error
        finally:
            session.close()


def _explained(error: jax.errors.JaxRuntimeError, config, start: Start, checkpoints: Checkpoints) -> Exception:
    reason = one_line(error)
    if "RESOURCE_EXHAUSTED" in reason:
        return UserError(
            f"{start.run.layout.micro_batch} images at a time do not fit in a device's memory; use "
            f"--config.accumulation_steps={2 * config.accumulation_steps}, or a smaller --config.batch_size"
        )
    if jax.process_count() > 1 and any(word in reason.lower() for word in LOST):
        return HostLost(
            f"the computation with the other hosts broke off ({reason[:200]}); most likely one of them has died. "
            f"The newest checkpoint is of step {checkpoints.latest_step}: run the same command on all hosts to go on"
        )
    return error


class _Session:
    """One process's turn at a run: what `train` needs at every step, and the handling of each event."""

    def __init__(self, start: Start, workdir: Path, interruption: Interruption, profile_steps: int, programs: Programs):
        self.start = start
        self.run, self.train_source, self.test_source = start.run, start.train_source, start.test_source
        self.config, self.workdir, self.programs = self.run.config, workdir, programs
        self.vote = StopVote(interruption, self.run.layout)
        self.checkpoints = Checkpoints(workdir, self.config.keep_checkpoints, tidy=True)
        self.writer = MetricWriter(workdir, enabled=jax.process_index() == 0)
        self.profile = Profile(workdir, profile_steps, say=lambda line: self.progress.say(line))
        self.illustrate = self.run.task.illustrator(self.run.model, self.test_source, **self.run.pixels)
        speak = warn if jax.process_index() == 0 else lambda line: None
        self.dead = DeadCoefficients(self.run.total_steps, speak, self.run.annealed_at)
        self.window: list[dict] = []  # sums of the steps since the last report
        self.ready: tuple[int, list[dict]] | None = None  # a finished window, not yet reported
        for row in read_metrics(self.writer.path, "test"):
            self.checkpoints.score(row["step"], row[self.run.task.score])

    def run_to_end(self) -> int:
        state = self._restore_or_initialise()
        if state is None:
            return self._leave_early()
        if jax.process_index() == 0:
            record(self.workdir, self.config, self.train_source.class_names, self.start.images)
        first_step, total = int(state.step), self.run.total_steps
        self.progress.say("compiling the training and evaluation steps (half a minute on a CPU) ...")
        compiled = self.programs.steps(self.run, state, len(self.test_source), self.vote)
        if compiled is None:
            return self._leave_early()
        self.train_step, self.eval_step, took = compiled
        self.progress.say(f"compiled in {took}")
        self.progress.restart()
        if self._evaluation_is_missing(first_step) and not self._evaluate(first_step, state):
            return self._leave(state)
        return self._steps(state, first_step) if first_step < total else self._finish(state)

    def _leave_early(self) -> int:
        print("stopped before the first step; run the same command to go on", flush=True)
        return INTERRUPTED

    def _restore_or_initialise(self) -> TrainState | None:
        """None if a signal came while a fresh state was being compiled."""
        run, config = self.run, self.config
        if self.checkpoints.latest_step is not None:
            state = self.checkpoints.restore(run.state_template(), set_aside=True)
            start = f"continuing at step {int(state.step)}"
        elif config.init_from is not None:
            initial = self.vote.run(lambda: initialise_from(Path(config.init_from), run))
            if initial is None:
                return None
            ((state, new),) = initial
            modules = ", ".join(sorted({name.split("/")[1] for name in new}))
            start = f"starting from {config.init_from}" + (f" with new {modules}" if new else "")
        else:
            initial = self.vote.run(lambda: self.programs.fresh_state(run))
            if initial is None:
                return None
            (state,) = initial
            start = "starting"
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self.progress = Progress(run.total_steps, int(state.step), config.batch_size)
        self.progress.say(
            f"{config.model.name}, {parameters / 1e6:.2f}M parameters, on {config.data.name}: {run.total_steps} steps "
            f"of {config.batch_size} images on {run.layout.mesh.size} {jax.default_backend()} device(s), {start}; "
            f"everything goes to {self.workdir}"
        )
        for line in explain_patterns(config, state.params, is_dynamic=bool(state.coefficients)):
            self.progress.say(line)
        if run.temperature is not None:
            start, end, last = config.temperature_from, float(run.temperature(run.annealed_at)), run.annealed_at
            early = f", but the run ends before, at step {run.total_steps}" if last > run.total_steps else ""
            self.progress.say(f"temperature of the predictors: from {start:g} to {end:g} at step {last}{early}")
        return state

    def _steps(self, state: TrainState, first_step: int) -> int:
        batches, total = self._batches(first_step), self.run.total_steps
        for step in range(first_step + 1, total + 1):
            state, sums = self.train_step(state, self.vote.attach(next(batches)))
            self.window.append(self.vote.count(sums))
            self.profile.after(step - first_step, state)
            # A finished window is read after the next step has been dispatched, so that reading never stalls a device.
            self._report_ready()
            self.checkpoints.check()

            last = step == total
            stop = self.vote.decided and not last
            evaluation = self._evaluation_is_due(step) and not stop
            if last or stop or self._is_reported(step):
                self.ready, self.window = (step, self.window), []
            if last or stop or evaluation or step % self.config.checkpoint_every_steps == 0:
                self._report_ready()
                self._refuse_divergence(step, self.window)  # so that a bad state never replaces a good checkpoint
                self.checkpoints.save(state, wait=stop)
            if stop or (evaluation and not self._evaluate(step, state)):
                return self._leave(state)
        return self._finish(state)

    def _leave(self, state: TrainState) -> int:
        self.checkpoints.save(state, wait=True)
        self.progress.say(f"stopped at step {int(state.step)}, saved; run the same command to go on")
        return INTERRUPTED

    def _finish(self, state: TrainState) -> int:
        self.checkpoints.save(state, wait=True)
        self.progress.say(f"done: curves in {self.workdir / 'curves.png'}; try `dynet predict {self.workdir} IMAGE`")
        return 0

    def close(self) -> None:
        self.profile.close()
        self.checkpoints.close()
        self.writer.close()
        if self.start.lock is not None:
            self.start.lock.close()

    def _batches(self, first_step: int) -> Iterator[dict]:
        """Batches on the devices, two steps ahead of the computation."""
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
        """Every log_every_steps; but the end's report takes a short remainder in, which alone would be noise."""
        every = self.config.log_every_steps
        return step % every == 0 and self.run.total_steps - step >= every

    def _evaluation_is_due(self, step: int) -> bool:
        every = max(1, round(self.config.eval_every_epochs * self.run.steps_per_epoch))
        return step == self.run.total_steps or (step > 0 and step % every == 0)

    def _evaluation_is_missing(self, step: int) -> bool:
        """The run was stopped between saving that step and the end of its evaluation, or it is done already."""
        evaluated = {row["step"] for row in read_metrics(self.writer.path, "test")}
        return self._evaluation_is_due(step) and (step not in evaluated or step == self.run.total_steps)

    def _report_ready(self) -> None:
        if self.ready is None:
            return
        (step, window), self.ready = self.ready, None
        self._refuse_divergence(step, window)
        values = means(window)
        learning_rate = float(self.run.schedule(step - 1))
        rate = self.progress.report(step, values["loss"], self.run.task.progress(values), learning_rate)
        self.writer.write(step, "train", {**values, "learning_rate": learning_rate, "images_per_second": rate})
        self.dead.look(step, values)

    def _refuse_divergence(self, step: int, window: list[dict]) -> None:
        bad = first_bad_step(window, step)
        if bad:
            raise diverged(self.run, self.train_source, *bad, self.workdir, self.checkpoints.latest_step)

    def _evaluate(self, step: int, state: TrainState) -> bool:
        """False if a signal ended it early."""
        jax.block_until_ready(state.step)  # steps still under way are training, not evaluation
        self.progress.pause()
        values = evaluate(self.run, self.eval_step, state.averaged_variables, self.test_source, self.vote)
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
            rows = {kind: read_metrics(self.writer.path, kind) for kind in ("train", "test")}
            title = f"{self.config.model.name} on {self.config.data.name}"
            try:
                plot_training_curves(rows, self.run.task, self.workdir / "curves.png", title)
            except OSError as error:
                warn(f"curves.png could not be drawn ({error.strerror})")
        self.progress.resume()
        return True
