"""Several processes as one run: they stop together, and their number does not change the result."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from dynet_jax.train.checkpoint import Checkpoints
from dynet_jax.train.loop import INTERRUPTED
from dynet_jax.train.restore import load_workdir
from tests.train import tiny_run
from tests.train.processes import Run, two_hosts

pytestmark = pytest.mark.slow


def assert_same_up_to_summation(workdir, other):
    """Reductions in another order differ by rounding, and forty steps of training amplify that."""
    tiny_run.get_config()  # registers the network
    state, expected = (jax.device_get(load_workdir(folder)[1]) for folder in (workdir, other))
    assert int(state.step) == int(expected.step) == 40

    def close(path, a, b):
        distance = np.linalg.norm(np.float64(a) - b) / (np.linalg.norm(b) + 1e-6)
        assert distance < 0.02, (jax.tree_util.keystr(path), distance)

    jax.tree_util.tree_map_with_path(close, state.params, expected.params)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One process with four devices, without a stop."""
    workdir = tmp_path_factory.mktemp("straight")
    run = Run(workdir, devices=4)
    assert run.finish() == 0, run.output
    return workdir


def test_a_signal_to_one_of_two_stops_both_and_one_goes_on(straight, tmp_path):
    first, second = two_hosts(tmp_path)
    first.read_until("step 8/40")
    second.process.send_signal(signal.SIGTERM)
    assert (first.finish(), second.finish()) == (INTERRUPTED, INTERRUPTED), first.output + second.output
    stopped = Checkpoints(tmp_path).latest_step
    assert 8 <= stopped < 40
    assert f"stopped at step {stopped}, saved" in first.output

    alone = Run(tmp_path, devices=4)
    assert alone.finish() == 0, alone.output
    assert f"continuing at step {stopped}" in alone.output
    assert_same_up_to_summation(tmp_path, straight)


def test_what_one_began_two_finish(straight, tmp_path):
    alone = Run(tmp_path, devices=4)
    alone.read_until("step 8/40")
    alone.process.send_signal(signal.SIGINT)
    assert alone.finish() == INTERRUPTED, alone.output
    runs = two_hosts(tmp_path)
    assert [run.finish() for run in runs] == [0, 0], runs[0].output + runs[1].output
    assert_same_up_to_summation(tmp_path, straight)


def test_a_host_that_dies_does_not_leave_the_other_waiting(tmp_path):
    first, second = two_hosts(tmp_path)
    first.read_until("step 8/40")
    second.process.kill()
    start = time.monotonic()
    assert first.finish() == INTERRUPTED, first.output
    assert time.monotonic() - start < 60
    assert "run the same command on all hosts to go on" in first.output
    second.finish()
    assert Checkpoints(tmp_path).latest_step in (4, 8)


def test_a_host_that_hangs_does_not_leave_the_other_waiting(tmp_path):
    first, second = two_hosts(tmp_path)
    first.read_until("step 8/40")
    second.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    assert first.finish() not in (0, INTERRUPTED)  # ended by JAX, in the middle of waiting for the other
    assert time.monotonic() - start < 60  # heartbeats are awaited for 10
    assert "stopped sending heartbeats" in first.output
    second.process.kill()
    second.finish()


def test_two_hosts_count_what_one_counts(straight, tmp_path):
    """359 test images are no multiple of the batch, the devices or the hosts."""
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    before = (straight / "metrics.jsonl").read_text().splitlines()[-1]
    runs = two_hosts(tmp_path)  # a finished run is evaluated again
    assert [run.finish() for run in runs] == [0, 0], runs[0].output + runs[1].output
    assert "test at step 40" in runs[0].output
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    one, two = json.loads(before), json.loads(after)
    assert (two["kind"], two["examples"], two["top1"], two["top5"]) == ("test", 359, one["top1"], one["top5"])
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("--config.learning_rate=0.01", 'the configuration is not the same on all hosts: "learning_rate": 0.05'),
        ("--config.data.name=folder:nowhere", "host 1 of 2: there is no nowhere"),
    ],
)
def test_hosts_that_differ_refuse_to_start(tmp_path, difference, message):
    runs = two_hosts(tmp_path, each=((), (difference,)))
    codes = [run.finish() for run in runs]
    assert codes == [2, 2], runs[0].output + runs[1].output
    for run in runs:
        assert message in run.output
        assert "Traceback" not in run.output
    assert not (tmp_path / "checkpoints").exists()
