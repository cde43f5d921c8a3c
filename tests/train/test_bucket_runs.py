"""Whole runs on a bucket: killed, interrupted, started twice, on two hosts, and over a network that fails."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from dynet_jax import bucket
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.metrics import read_metrics
from tests.bucket_server import bucket_server
from tests.quick_compilation import flags
from tests.train.processes import CONFIG, Run, two_hosts

pytestmark = pytest.mark.slow
OFTEN = "--config.checkpoint_every_steps=2"
KILLS = 25


def train(workdir: str) -> None:
    """Trains in a process that has been forked from one that has imported, but not used, JAX."""
    os.environ["XLA_FLAGS"] = flags(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    from dynet_jax.cli import train_main

    os._exit(train_main([f"--config={CONFIG}", f"--workdir={workdir}", OFTEN]))


@pytest.fixture(scope="module")
def started():
    """Starts `train` of a work directory, quickly."""
    bucket_server()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dynet_jax.train.loop", "configs.common", "tests.train.tiny_run", __name__])

    def start(workdir: str):
        process = context.Process(target=train, args=(workdir,))
        process.start()
        return process

    return start


@pytest.fixture
def server():
    yield bucket_server()
    bucket_server().reset()


@pytest.fixture(scope="module")
def straight(started):
    """The results of an uninterrupted run."""
    process = started("gs://bucket/straight")
    process.join()
    assert process.exitcode == 0
    return outcome("gs://bucket/straight")


def outcome(workdir: str) -> tuple:
    """The digests of the last state, all evaluations, and the steps that were reported, each once."""
    checkpoints, file = Checkpoints(bucket.place(workdir)), bucket.place(workdir) / "metrics.jsonl"
    assert checkpoints.latest_step == 40
    assert not bucket_server().names(f"{bucket.key(workdir)}/damaged/")
    reported = [row["step"] for row in read_metrics(file, "train")]
    return checkpoints.manifest()["arrays"], read_metrics(file, "test"), reported


def test_killed_again_and_again_it_ends_bitwise_the_same(server, started, straight):
    """Each kill comes with some request: in the reads of a start, an upload, a commit, the removal of a checkpoint."""
    rng, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        workdir, killed = f"gs://bucket/killed{runs}", True
        while killed:
            process = started(workdir)
            left = iter(range(rng.randint(1, 250) if kills < KILLS else 10**9, -1, -1))

            def kill(request, process=process, left=left):
                if next(left, -1) == 0:
                    process.kill()

            server.before = kill
            process.join()
            killed = process.exitcode == -signal.SIGKILL
            assert killed or process.exitcode == 0
            kills += killed
        server.reset()
        runs += 1
        assert outcome(workdir) == straight


def test_over_a_network_that_fails_it_ends_bitwise_the_same(server, started, straight):
    server.share = 0.1
    process = started("gs://bucket/faults")
    process.join()
    assert process.exitcode == 0
    assert server.faults > 8
    server.reset()
    assert outcome("gs://bucket/faults") == straight


def test_of_two_runs_at_once_one_is_refused(server, started, straight):
    runs = [started("gs://bucket/twice") for _ in range(2)]
    [run.join() for run in runs]
    assert sorted(run.exitcode for run in runs) == [0, 2]
    assert outcome("gs://bucket/twice") == straight


def test_a_run_that_is_taken_over_stops(server):
    """The lease changes hands behind its back, as where its machine has slept."""
    run = Run("gs://bucket/taken", OFTEN)
    run.read_until("step 8/40")
    lease = bucket.handle("gs://bucket/taken").blob("taken/.lease")
    lease.metadata = {"run": "another", "machine": "elsewhere", "process": "1 1"}
    lease.upload_from_string(b"")
    time.sleep(1)  # a commit that had already begun
    committed = Checkpoints(bucket.place("gs://bucket/taken")).steps
    assert run.finish() == 2, run.output
    assert "another run has taken over gs://bucket/taken" in run.output
    assert Checkpoints(bucket.place("gs://bucket/taken")).steps == committed


def test_two_hosts_leave_together_and_go_on(server):
    first, second = two_hosts("gs://bucket/hosts", "--config.checkpoint_every_steps=4", devices=1)
    first.read_until("step 12/40")
    second.process.send_signal(signal.SIGTERM)
    assert [first.finish(), second.finish()] == [75, 75], first.output + second.output
    again = two_hosts("gs://bucket/hosts", "--config.checkpoint_every_steps=4", devices=1)
    assert [host.finish() for host in again] == [0, 0], again[0].output + again[1].output
    (step,) = (line.split("step ")[1].split(",")[0] for line in first.output.splitlines() if "stopped at" in line)
    assert f"continuing at step {step}" in again[0].output
    steps = [row["step"] for row in read_metrics(bucket.place("gs://bucket/hosts") / "metrics.jsonl", "train")]
    assert steps == sorted({*range(4, 41, 4), int(step)})  # each once
