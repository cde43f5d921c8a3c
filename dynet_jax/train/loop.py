"""Training from a configuration to a trained work directory.

The order is: check everything, restore or initialise, compile, then for each step: batch, step, log, save, evaluate
(`dynet_jax.train.session`). The same command resumes from the newest valid checkpoint; the data needs no state, because
batch n is a function of n.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections

from dynet_jax.bucket import place
from dynet_jax.data.contents import describe
from dynet_jax.errors import HostLost, UserError, one_line
from dynet_jax.memory import OutOfMemory, explained, memory_cause
from dynet_jax.train.compilation import Programs
from dynet_jax.train.init_from import initialise_from
from dynet_jax.train.interruption import Interruption, StopVote
from dynet_jax.train.less_memory import less_memory
from dynet_jax.train.optim import explain_patterns
from dynet_jax.train.session import INTERRUPTED, Session
from dynet_jax.train.setup import Run
from dynet_jax.train.startup import Start, start_up
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import record

# Words in an error of Gloo, NCCL or gRPC when the connection to another host breaks.
LOST = ("gloo", "nccl", "connection", "unavailable", "deadline", "heartbeat", "peer", "aborted", "cancelled")


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    allow_config_change: bool = False,
    profile_steps: int = 0,
    programs: Programs | None = None,
    stop: threading.Event | None = None,
    ends_process: bool = False,
) -> int:
    """Trains to the end, or to the first SIGTERM or Ctrl-C. Returns the process's exit code, 0 or INTERRUPTED.

    It works in a script, in a notebook and in a thread. Signals are caught in the main thread only; a run in another
    thread leaves when `stop` is set. In a notebook the first interrupt saves and returns INTERRUPTED; the second one
    raises KeyboardInterrupt.

    `programs` are shared by runs of one process that differ in their seed alone, so that only the first one compiles.
    `ends_process` is for commands: the second signal ends the process at once, and whoever calls ends it by `os._exit`
    after INTERRUPTED, because a compilation may still be running in the background.

    Writes to `workdir`: config.json, labels.json, metrics.jsonl, tensorboard/, curves.png, checkpoints/.
    Raises UserError for every problem that the user can fix.
    """
    with Interruption(stop, ends_process=ends_process) as interruption:
        start = start_up(config, workdir, allow_config_change=allow_config_change)
        session = _open(start, workdir, StopVote(interruption, start.run.layout), profile_steps)
        try:
            code = _run(session, programs or Programs())
        except Exception as error:
            explanation = _explained(error, start, session.checkpoints)
            if explanation is None:
                raise
            raise explanation from error
        finally:
            sent = session.close()
        session.held.check()  # files that could not be sent may now belong to another run
        return code if sent else INTERRUPTED  # the next start evaluates and draws once more


def _open(start: Start, workdir: Path, vote: StopVote, profile_steps: int) -> Session:
    try:
        return Session(start, workdir, vote, profile_steps)
    except BaseException:
        if start.held is not None:
            start.held.close()
        raise


def _explained(error: Exception, start: Start, checkpoints: Checkpoints) -> UserError | None:
    """Returns an error that says what a person can do, or None if there is no advice."""
    if (cause := memory_cause(error)) is not None:
        return OutOfMemory(explained(cause, less_memory(start.run, goes_on=checkpoints.latest_step is not None)))
    reason = one_line(error)
    lost = isinstance(error, jax.errors.JaxRuntimeError) and any(word in reason.lower() for word in LOST)
    if lost and jax.process_count() > 1:
        return HostLost(
            f"the computation with the other hosts broke off ({reason[:200]}); most likely one of them has died. "
            f"The newest checkpoint is of step {checkpoints.latest_step}: run the same command on all hosts to resume"
        )
    return None


def _run(session: Session, programs: Programs) -> int:
    """Runs from the newest checkpoint, or the beginning, to the end."""
    run, progress = session.run, session.progress
    first = _first_state(session, programs)
    if first is None:
        return _leave_early()
    state, origin = first
    told = describe({"train": session.train_source, "test": session.test_source})
    for line in (*told, *_introduction(run, state, origin, session.workdir)):
        progress.say(line)
    progress.say("compiling the training and evaluation steps (minutes for a large network on a CPU) ...")
    compiled = programs.steps(run, state, len(session.test_source), session.vote)
    if compiled is None:
        return _leave_early()
    train_step, eval_step, took = compiled
    progress.say(f"compiled in {took}")
    if jax.process_index() == 0:  # not earlier: a changed configuration that does not fit would block the next start
        record(session.workdir, run.config, session.train_source.class_names, session.start.images)
    return session.train(state, train_step, eval_step)


def _leave_early() -> int:
    print("stopped before the first step; run the same command to resume", flush=True)
    return INTERRUPTED


def _first_state(session: Session, programs: Programs) -> tuple[TrainState, str] | None:
    """Returns the first state and its origin; None if a signal came while an initial state was being compiled."""
    run, config, checkpoints = session.run, session.config, session.checkpoints
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(run.state_template(), set_aside=True)
        return state, f"continuing at step {int(state.step)}"
    if config.init_from is None:
        initial = session.vote.run(lambda: programs.fresh_state(run))
        return None if initial is None else (initial[0], "starting")
    class_names = session.train_source.class_names
    initial = session.vote.run(lambda: initialise_from(place(config.init_from), run, class_names))
    if initial is None:
        return None
    ((state, said),) = initial
    return state, f"starting from {config.init_from}{said}"


def _introduction(run: Run, state: TrainState, origin: str, workdir: Path) -> Iterator[str]:
    """Yields lines that describe the run."""
    config, parameters = run.config, sum(leaf.size for leaf in jax.tree.leaves(state.params))
    yield (
        f"{config.model.name}, {parameters:,} parameters, on {config.data.name}: {run.total_steps} steps "
        f"of {config.batch_size} images on {run.layout.mesh.size} {jax.default_backend()} device(s), {origin}; "
        f"everything goes to {workdir}"
    )
    yield from explain_patterns(config, state.params, is_dynamic=bool(state.coefficients))
    if run.temperature is not None:
        start, last = config.temperature_from, run.annealed_at
        end = float(run.temperature(last))  # pyrefly: ignore[bad-argument-type]  (not complex)
        early = f", but the run ends before, at step {run.total_steps}" if last > run.total_steps else ""
        yield f"temperature of the predictors: from {start:g} to {end:g} at step {last}{early}"
