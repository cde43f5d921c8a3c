"""The cost of saving to a bucket: time, requests and bytes of a save, and the delay of a training step.

    python -m benchmarks.bucket_saves --config=configs/dy_mobile.py --seconds=0 2

The bucket is an emulator on this machine, whose requests take at least that many seconds each. The steps are stand-ins
of a fixed length on the CPU; the result is the excess of the longest one while a save was running.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp

from benchmarks.arguments import make_parser
from dynet_jax import bucket
from dynet_jax.config.load import load_config
from dynet_jax.console import size
from dynet_jax.devices import make_layout
from dynet_jax.train.setup import make_run
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.holding import hold, lock_workdir
from tests.bucket_server import bucket_server

IMAGES = 1_281_167  # of ImageNet; nothing depends on them but the number of steps
STEP_SECONDS = 0.05


def longest_step(until) -> float:
    """Makes steps until something is true. Returns how much longer than intended the longest one took."""
    longest = 0.0
    while not until():
        start = time.perf_counter()
        time.sleep(STEP_SECONDS)
        longest = max(longest, time.perf_counter() - start - STEP_SECONDS)
    return longest


def noise(leaf: jax.Array) -> jax.Array:
    """Returns noise, which compresses like a trained array; a fresh one is partly zeros."""
    return jax.random.normal(jax.random.key(leaf.size), leaf.shape, leaf.dtype) if leaf.dtype == jnp.float32 else leaf


def measure(state, seconds: float) -> None:
    """Saves twice, and prints the cost of the second save."""
    server, workdir = bucket_server(), bucket.place(f"gs://bucket/{seconds:g}")
    holding = hold(workdir, lock_workdir(workdir))
    server.seconds = seconds
    checkpoints = Checkpoints(workdir, tidy=True, before_commit=holding.before_commit)
    for step in (1, 2):
        (holding.files / "metrics.jsonl").write_text("{}\n" * 100 * step)
        numbered = state.replace(step=jnp.int32(step))
        server.requests.clear()
        before, start = server.received, time.perf_counter()
        checkpoints.save(numbered)
        called = time.perf_counter() - start
        longest = longest_step(lambda: not checkpoints._is_saving)
        took = time.perf_counter() - start
        checkpoints.check()
    requests = sum(server.requests.values())
    assert checkpoints.steps == [1, 2]
    print(
        f"| {seconds:g} | {took:.1f} | {requests} | {size(server.received - before)} | "
        f"{1000 * called:.0f} | {1000 * longest:.0f} |",
        flush=True,
    )
    idle = server.requests.copy()
    time.sleep(2)
    print(f"  between saves: {sum((server.requests - idle).values())} requests in 2 s")
    server.reset()
    checkpoints.close()
    holding.close()


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("bucket_saves", __doc__)
    parser.add_argument("--config", default="configs/dy_mobile.py")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.0, 2.0])
    options: argparse.Namespace = parser.parse_args(argv)
    run = make_run(load_config(options.config), IMAGES, make_layout(64, 64, 1, devices=jax.devices()[:1]))
    state = jax.tree.map(noise, run.fresh_state())
    print(f"{options.config}: {size(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))} of state")
    print("| s a request | s a save | requests | sent | ms of the call | ms that the longest step took longer |")
    for seconds in options.seconds:
        measure(state, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
