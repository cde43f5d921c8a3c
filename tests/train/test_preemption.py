"""Signals at any moment: the run saves, exits with the code for a new start, and resumes bit-identically."""

import signal
import time
from pathlib import Path

import pytest

from benchmarks.crash_test import crash_test
from dynet_jax.train.loop import INTERRUPTED
from dynet_jax.workdir.checkpoint import Checkpoints
from tests.train.processes import CONFIG, Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "every"), [(signal.SIGTERM, 4), (signal.SIGINT, 4), (signal.SIGTERM, 1)])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number, every):
    """The signal comes in training; with a checkpoint at every step it comes in the middle of a save."""
    often = f"--config.checkpoint_every_steps={every}"
    run = Run(tmp_path, often)
    run.read_until("step 8/40")
    run.process.send_signal(number)
    assert run.finish() == INTERRUPTED, run.output
    step = Checkpoints(tmp_path).latest_step
    assert f"stopped at step {step}, saved; run the same command to resume" in run.output
    again = Run(tmp_path, often)
    assert again.finish() == 0, again.output
    assert f"continuing at step {step}" in again.output
    assert "step 40/40 100.0%" in again.output


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("later", [0.0, 0.3, 0.8])
def test_a_signal_while_the_program_is_loaded_is_not_lost(tmp_path, number, later):
    """The process catches SIGTERM long before JAX is loaded."""
    run = Run(tmp_path / "run")
    status = Path(f"/proc/{run.process.pid}/status")
    while True:
        (caught,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.001)
    time.sleep(later)
    run.process.send_signal(number)
    assert run.finish() == INTERRUPTED, run.output
    assert "Traceback" not in run.output


def test_a_signal_in_compilation_is_answered_at_once(tmp_path):
    run = Run(tmp_path / "run", environment={"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")})
    run.read_until("compiling")
    run.process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    assert run.finish() == INTERRUPTED, run.output
    assert time.monotonic() - start < 5
    assert "stopped before the first step" in run.output
    assert "compiled" not in run.output


def test_a_signal_in_evaluation_is_answered_and_the_evaluation_made_up_for(tmp_path):
    few = ("--config.batch_size=8", "--config.epochs=0.1", "--config.log_every_steps=1")  # 18 steps, 45 of evaluation
    run = Run(tmp_path, *few)
    run.read_until("step 18/18")
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == INTERRUPTED, run.output
    assert "stopped at step 18" in run.output
    again = Run(tmp_path, *few)
    assert again.finish() == 0, again.output
    assert "continuing at step 18" in again.output
    assert "test at step 18" in again.output


def test_a_second_signal_leaves_at_once_and_harms_nothing(tmp_path):
    run = Run(tmp_path, "--config.checkpoint_every_steps=2")
    run.read_until("step 12/40")
    for _ in range(2):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    code = run.finish()
    assert code in (-signal.SIGTERM, INTERRUPTED), run.output  # the first may have been quick enough
    again = Run(tmp_path, "--config.checkpoint_every_steps=2")
    assert again.finish() == 0, again.output
    assert "damaged" not in again.output


def test_killed_again_and_again_it_ends_bitwise_the_same(tmp_path):
    results = crash_test(tmp_path, kills=5, config=CONFIG, extra=[], most_steps=7)
    assert sum(kills for kills, _ in results) >= 5
    assert all(same for _, same in results)


def test_a_damaged_checkpoint_is_one_loud_line(tmp_path):
    assert Run(tmp_path).finish() == 0
    largest = max((tmp_path / "checkpoints/40/state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    again = Run(tmp_path)
    assert again.finish() == 0, again.output
    warnings = [line for line in again.output.splitlines() if line.startswith("WARNING")]
    assert "checkpoints/40 is damaged" in warnings[0]
    assert "continuing at step 36" in again.output
    assert "step 40/40" in again.output
    assert "Traceback" not in again.output
    assert (tmp_path / "damaged/40").is_dir()
