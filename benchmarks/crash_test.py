"""Kills a training run repeatedly, and checks that its result is bit-identical to that of an uninterrupted run.

    python -m benchmarks.crash_test --kills=25

A run of 40 steps, with augmentation, BatchNorm and averages of parameters, is killed (SIGKILL) at random steps and
restarted until it ends. Then its last checkpoint is compared with that of an uninterrupted run, array by array.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arguments import make_parser, positive
from dynet_jax.workdir.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
CONFIG = "configs/dy_mobile.py:digits"
SMALL = ["--config.model.width=0.1", "--config.bn_batch_size=8", "--config.data.flip=true"]
RUN = ["--config.warmup_epochs=0.5", "--config.ema_decay=0.9", "--config.checkpoint_every_steps=3"]
RUN += ["--config.log_every_steps=1", "--config.eval_every_epochs=0.5"]
STEPS, STEPS_PER_EPOCH = 40, 22  # of the digits, 64 images at a time


def command(workdir: Path, config: str, extra: list[str]) -> list[str]:
    epochs = [f"--config.epochs={STEPS / STEPS_PER_EPOCH}"]
    return [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}", *epochs, *RUN, *extra]


def run_until(arguments: list[str], steps: int | None, delay: float = 0.0) -> bool:
    """Runs, and kills `delay` seconds after that many reported steps. Returns whether the run ended by itself."""
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines, reported = [], 0
    with process:
        for line in process.stdout:
            lines.append(line)
            reported += line.startswith("step ")
            if steps is not None and reported >= steps:
                time.sleep(delay)
                process.kill()
                break
    if process.returncode not in (0, -9):
        raise SystemExit(f"the run failed:\n{''.join(lines)}")
    return process.returncode == 0


def killed_run(arguments: list[str], most_kills: int, most_steps: int, rng: random.Random) -> int:
    """Trains to the end through kills. Returns their number."""
    for kills in range(most_kills):
        if run_until(arguments, rng.randint(1, most_steps), rng.uniform(0, 0.5)):
            return kills
    run_until(arguments, None)
    return most_kills


def saved(workdir: Path) -> tuple[int | None, dict]:
    """Returns the last checkpoint's step, and the digest of every array."""
    checkpoints = Checkpoints(workdir)
    return checkpoints.latest_step, checkpoints.manifest()["arrays"]


def crash_test(
    folder: Path, kills: int, *, config: str = CONFIG, extra: list[str] = SMALL, seed: int = 0, most_steps: int = 12
) -> list[tuple[int, bool]]:
    """Yields (kills, whether it ended in the same state) of each run, until there were `kills` kills."""
    run_until(command(folder / "straight", config, extra), None)
    wanted, rng = saved(folder / "straight"), random.Random(seed)
    if wanted[0] != STEPS:
        raise SystemExit(f"the run without a stop ended at step {wanted[0]}, not {STEPS}")
    results: list[tuple[int, bool]] = []
    while sum(count for count, _ in results) < kills:
        workdir = folder / f"killed{len(results)}"
        missing = kills - sum(count for count, _ in results)
        count = killed_run(command(workdir, config, extra), missing, most_steps, rng)
        results.append((count, saved(workdir) == wanted))
        print(f"run {len(results)}: {count} kills, {'the same' if results[-1][1] else 'NOT THE SAME'}", flush=True)
        shutil.rmtree(workdir)
    return results


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("crash_test", __doc__)
    parser.add_argument("--kills", type=positive(int), default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = crash_test(Path(folder), options.kills, seed=options.seed)
    same = sum(equal for _, equal in results)
    kills = sum(count for count, _ in results)
    print(
        f"{kills} kills in {len(results)} runs of {STEPS} steps: {same} of {len(results)} runs ended bitwise the same"
    )
    return 0 if same == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
