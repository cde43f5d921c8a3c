"""Training from a configuration to a trained work directory.

Order of events: check everything, restore or initialise, then for each step: batch, step, log, evaluate, save. Running
the same command again goes on from the newest checkpoint; the data needs no state, as batch n is a function of n.
"""

import math
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections

from dynet_jax.analysis.plots import plot_training_curves
from dynet_jax.data import training_batches
from dynet_jax.errors import UserError
from dynet_jax.train.checkpoint import Checkpoints
from dynet_jax.train.config import check_config
from dynet_jax.train.distributed import make_layout, to_devices
from dynet_jax.train.evaluate import evaluate
from dynet_jax.train.metrics import MetricWriter, means, read_metrics
from dynet_jax.train.progress import Progress, duration
from dynet_jax.train.setup import Run, make_run, open_data, training_transform
from dynet_jax.train.state import TrainState
from dynet_jax.train.step import make_eval_step, make_train_step
from dynet_jax.train.workdir import claim

INTERRUPTED = 75  # EX_TEMPFAIL: "start me again"


def train(config: ml_collections.ConfigDict, workdir: Path) -> int:
    """Train to the end, or to the first SIGTERM or Ctrl-C. Returns the process's exit code, 0 or INTERRUPTED.

    Writes into `workdir`: config.json, labels.json, metrics.jsonl, tensorboard/, curves.png, checkpoints/.
    Raises UserError for whatever the user can mend.
    """
    check_config(config)
    training_transform(config)
    train_source, test_source = open_data(config, "train"), open_data(config, "test")
    layout = make_layout(config.batch_size, config.bn_batch_size, config.accumulation_steps)
    run = make_run(config, len(train_source), layout)
    if jax.process_index() == 0:
        claim(workdir, config, train_source.class_names)
    with _Interruption() as interruption:
        session = _Session(run, workdir, interruption)
        state = session.restore_or_initialise()
        session.writer = MetricWriter(workdir, enabled=jax.process_index() == 0)
        try:
            return session.train(state, train_source, test_source)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"{layout.micro_batch} images at a time do not fit in a device's memory; use "
                f"--config.accumulation_steps={2 * config.accumulation_steps}, or a smaller --config.batch_size"
            ) from error
        finally:
            session.close()


class _Session:
    """One process's turn at a run: what `train` needs at every step, and the handling of each event."""

    def __init__(self, run: Run, workdir: Path, interruption: "_Interruption"):
        self.run, self.config, self.workdir, self.interruption = run, run.config, workdir, interruption
        self.checkpoints = Checkpoints(workdir, run.config.keep_checkpoints)
        self.eval_step = make_eval_step(run.model, run.layout, **run.pixels)
        self.train_step = make_train_step(
            run.model, run.optimizer, run.layout, label_smoothing=run.config.label_smoothing, **run.pixels
        )

    def restore_or_initialise(self) -> TrainState:
        run, config = self.run, self.config
        if self.checkpoints.latest_step is not None:
            state = self.checkpoints.restore(run.state_template())
            start = f"continuing at step {int(state.step)}"
        else:
            state = run.fresh_state()
            start = "starting"
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self.progress = Progress(run.total_steps, int(state.step), config.batch_size)
        self.progress.say(
            f"{config.model.name}, {parameters / 1e6:.2f}M parameters, on {config.data.name}: {run.total_steps} steps "
            f"of {config.batch_size} images on {run.layout.mesh.size} {jax.default_backend()} device(s), {start}; "
            f"everything goes to {self.workdir}"
        )
        return state

    def train(self, state: TrainState, train_source, test_source) -> int:
        run, first_step = self.run, int(state.step)
        batches = self._batches(train_source, first_step)
        window, ready = [], None
        for step in range(first_step + 1, run.total_steps + 1):
            batch = next(batches)
            if step == first_step + 1:
                self._compile(state, batch)
            state, sums = self.train_step(state, batch)
            window.append(sums)
            # A finished window is read after the next step has been dispatched, so that reading never stalls a device.
            if ready:
                self._log(*ready)
                ready = None

            last = step == run.total_steps
            stop = self.interruption.seen and not last
            if last or stop or self._is_reported(step):
                ready, window = (step, window), []
            save = last or stop or step % self.config.checkpoint_every_steps == 0
            evaluate = last or step % max(1, round(self.config.eval_every_epochs * run.steps_per_epoch)) == 0
            if save or evaluate:
                if ready:
                    self._log(*ready)
                    ready = None
                self._refuse_divergence(step, window)  # so that a bad state never replaces a good checkpoint
            if save:
                self.checkpoints.save(state, wait=stop)
            if evaluate and not stop and not self._evaluate(step, state, test_source):
                self.checkpoints.save(state, wait=True)
                stop = not last
            if stop:
                self.progress.say(f"stopped at step {step}, saved; run the same command to go on")
                return INTERRUPTED
        if first_step >= run.total_steps:
            self._evaluate(first_step, state, test_source)
        self.progress.say(f"done: curves in {self.workdir / 'curves.png'}; try `dynet predict {self.workdir} IMAGE`")
        return 0

    def close(self) -> None:
        self.checkpoints.close()
        self.writer.close()

    def _batches(self, source, first_step: int) -> Iterator[dict]:
        """Batches on the devices, two steps ahead of the computation."""
        host_batches = training_batches(
            source,
            training_transform(self.config),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=first_step,
            host=jax.process_index(),
            hosts=jax.process_count(),
            threads=self.config.data.threads,
            workers=self.config.data.get("workers", 0),
            corrupt=self.run.corrupt,
        )
        ahead: deque[dict] = deque()
        for batch in host_batches:
            ahead.append(to_devices(batch, self.run.layout))
            if len(ahead) > 2:
                yield ahead.popleft()

    def _compile(self, state, batch) -> None:
        self.progress.say("compiling the training step (half a minute on a CPU) ...")
        start = time.perf_counter()
        self.train_step = self.train_step.lower(state, batch).compile()
        self.progress.say(f"compiled in {duration(time.perf_counter() - start)}")
        self.progress.restart()

    def _is_reported(self, step: int) -> bool:
        """Every log_every_steps; but the end's report takes a short remainder in, which alone would be noise."""
        every = self.config.log_every_steps
        return step % every == 0 and self.run.total_steps - step >= every

    def _refuse_divergence(self, step: int, window: list[dict]) -> None:
        values = means(window) if window else {"loss": 0.0}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss is {values['loss']} at step {step}; the last checkpoint is of step "
                f"{self.checkpoints.latest_step}. Use a smaller --config.learning_rate than {self.config.learning_rate}"
            )

    def _log(self, step: int, window: list[dict]) -> None:
        self._refuse_divergence(step, window)
        values = means(window)
        learning_rate = float(self.run.schedule(step - 1))
        rate = self.progress.report(step, values["loss"], values["top1"], learning_rate)
        self.writer.write(step, "train", {**values, "learning_rate": learning_rate, "images_per_second": rate})

    def _evaluate(self, step: int, state: TrainState, source) -> bool:
        """False if a signal ended it early."""
        jax.block_until_ready(state.step)  # steps still under way are training, not evaluation
        self.progress.pause()
        values = evaluate(self.run, self.eval_step, state.variables, source, lambda: self.interruption.seen)
        if values is None:
            return False
        self.progress.say(
            f"  test at step {step}: top-1 {100 * values['top1']:.2f} % | top-5 {100 * values['top5']:.2f} % | "
            f"loss {values['loss']:.3f} | {values['examples']} images"
        )
        self.writer.write(step, "test", values)
        if jax.process_index() == 0:
            rows = {kind: read_metrics(self.writer.path, kind) for kind in ("train", "test")}
            title = f"{self.config.model.name} on {self.config.data.name}"
            plot_training_curves(rows, self.workdir / "curves.png", title)
        self.progress.resume()
        return True


class _Interruption:
    """The first SIGTERM or Ctrl-C asks the loop to save and leave; the second one stops at once."""

    seen = False

    def __enter__(self):
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        self.seen = True
        self._restore()
        print(
            "stopping when the step under way is done; once more to stop at once, without saving",
            file=sys.stderr,
            flush=True,
        )

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def __exit__(self, *exception):
        self._restore()
