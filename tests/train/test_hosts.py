"""Several processes as one run: they stop together, and their number does not change the result."""

import json
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from dynet_jax.train.loop import INTERRUPTED
from dynet_jax.workdir.checkpoint import Checkpoints
from tests.train import tiny_run
from tests.train.processes import Run, free_port, two_hosts
from tests.train.saved import load_workdir

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


@pytest.mark.parametrize("moment", ["compiling", "  test at"])
def test_a_signal_to_one_of_two_at_another_moment(tmp_path, moment):
    """It comes during compilation, and after the first of two evaluations, when the next vote is on its way."""
    first, second = two_hosts(tmp_path)
    first.read_until(moment)
    second.process.send_signal(signal.SIGTERM)
    assert (first.finish(), second.finish()) == (INTERRUPTED, INTERRUPTED), first.output + second.output
    stopped = Checkpoints(tmp_path).latest_step
    assert 0 < stopped < 40
    assert f"stopped at step {stopped}, saved" in first.output


@pytest.mark.parametrize("host", [0, 1])
def test_a_save_that_fails_on_one_host_stops_nobody(tmp_path, host):
    """Each host writes a part; where one cannot, nobody commits, nobody waits, and the last save's failure is told."""
    options = [{}, {}]
    options[host] = {"max_kib": 3}
    runs = two_hosts(tmp_path, options=tuple(options))
    codes = [run.finish() for run in runs]
    assert codes == [2, 2], runs[0].output + runs[1].output
    assert "step 40/40" in runs[0].output
    for run in runs:
        assert "WARNING: a checkpoint could not be saved" in run.output
        assert "Make room, then run the same command to resume" in run.output
        assert "Traceback" not in run.output
    assert f"on host {host}: " in runs[1 - host].output
    assert Checkpoints(tmp_path).latest_step is None


def test_two_hosts_go_on_from_another_run(straight, tmp_path):
    """Fine-tuning: the same initial state on every host, or the first step would tear them apart."""
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = (f"--init_from={straight}", "--config.learning_rate=0.001", "--config.epochs=0.5")
    alone = Run(one, *arguments, devices=4)
    assert alone.finish() == 0, alone.output
    runs = two_hosts(two, *arguments)
    assert [run.finish() for run in runs] == [0, 0], runs[0].output + runs[1].output
    assert f"starting from {straight}" in runs[0].output
    tiny_run.get_config()
    states = [jax.device_get(load_workdir(folder)[1]) for folder in (one, two)]
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-3, atol=1e-4)


def test_a_coordinator_that_dies_does_not_leave_the_other_waiting(tmp_path):
    first, second = two_hosts(tmp_path)
    first.read_until("step 8/40")
    first.process.kill()
    start = time.monotonic()
    assert second.finish() not in (0, 2), second.output
    assert time.monotonic() - start < 60
    first.finish()
    assert Checkpoints(tmp_path).latest_step in (4, 8)


def test_a_host_that_dies_does_not_leave_the_other_waiting(tmp_path):
    first, second = two_hosts(tmp_path)
    first.read_until("step 8/40")
    second.process.kill()
    start = time.monotonic()
    assert first.finish() == INTERRUPTED, first.output
    assert time.monotonic() - start < 60
    assert "run the same command on all hosts to resume" in first.output
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


@pytest.mark.parametrize(
    ("devices", "platforms", "message"),
    [
        ((1, 2), ("cpu", "cpu"), "the number or kind of devices is not the same on all hosts: 1 of cpu, cpu on host 0"),
        ((1, 1), ("", "tpu"), "what JAX computes with is not the same on all hosts: cpu on host 0, tpu on host 1"),
    ],
)
def test_hosts_that_are_not_alike(tmp_path, devices, platforms, message):
    """All say so at once, and none waits for the others."""
    options = tuple(
        {"devices": count, "environment": {"JAX_PLATFORMS": name}} for count, name in zip(devices, platforms)
    )
    runs = two_hosts(tmp_path / "out", options=options)
    assert [run.finish() for run in runs] == [2, 2], runs[0].output + runs[1].output
    for run in runs:
        assert message in run.output
        assert "Traceback" not in run.output
    assert not (tmp_path / "out" / "config.json").exists()


SLOW_READER = """
import os, sys, time
from unittest.mock import Mock
from dynet_jax import hosts
from dynet_jax.errors import UserError

process, address = int(sys.argv[1]), sys.argv[2]
hosts.join(address, 2, process)
if process == 1:
    client = hosts.distributed.global_state.client
    hosts.distributed.global_state.client = Mock(wraps=client)
    hosts.distributed.global_state.client.blocking_key_value_get = lambda *key: (
        time.sleep(3), client.blocking_key_value_get(*key)
    )[1]
try:
    hosts.same_before_start("the colour", ("red", "blue")[process])
except UserError as error:
    print(f"refused: {error}", file=sys.stderr, flush=True)
    os._exit(2)
"""


def test_the_first_host_waits_for_one_that_is_slow_to_see_a_difference():
    """It holds the store of texts; without it the other would report a lost connection, or be ended by JAX."""
    address = f"localhost:{free_port()}"
    processes = [
        subprocess.Popen([sys.executable, "-c", SLOW_READER, str(host), address], stderr=subprocess.PIPE, text=True)
        for host in range(2)
    ]
    outputs = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    for output in outputs:
        assert "refused: the colour is not the same on all hosts: red on host 0, blue on host 1" in output
