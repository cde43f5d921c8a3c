"""Processes that compile and time: the cost of one that crashes, hangs or runs out of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import throughput, throughput_cells, throughput_rounds
from dynet_jax.measure.records import read_rows

ROOT = Path(__file__).parents[2]
FAKE = """
import os, signal, time
from benchmarks.programs import Programs
from dynet_jax.measure.serve import serve

def step(cell):
    def call(count):
        network = cell["network"]
        if network == "killed": os.kill(os.getpid(), signal.SIGKILL)
        if network == "hanging": time.sleep(600)
        if network == "large": raise MemoryError("no room")
        if network == "dying":  # when it is timed
            steps[network] = steps.get(network, 0) + 1
            if steps[network] > 1: os._exit(7)
        time.sleep(0.001 * count)
    return call

steps = {}

def prepare(cells):
    print("noise")
    for cell in cells:
        yield cell["name"], step(cell)

def describe():
    return {"is": "a fake", "runs_on": "cpu"}

if __name__ == "__main__":
    serve(Programs(prepare, describe).answer)
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A framework whose networks do what their names say."""
    (tmp_path / "fake_jax.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(throughput_rounds, "MODULE", "fake_{}")
    networks = ("first", "killed", "large", "hanging", "dying", "last")
    family = [throughput_cells.Subject("jax", name, "first") for name in networks]
    monkeypatch.setitem(throughput_cells.FAMILIES, "mobile", family)


@pytest.mark.slow
def test_a_network_that_ends_its_process_costs_its_own_row_only(fake, tmp_path, capsys):
    file = tmp_path / "rates.jsonl"
    options = ["--frameworks=jax", "--families=mobile", "--batch=4", "--passes=inference", "--rounds=3"]
    options += ["--seconds=0.01", "--cell-limit=1", f"--jsonl={file}"]
    assert throughput.main(options) == 1
    rows = {row["network"]: row for row in read_rows(file)}
    errors = {network: row.get("error") for network, row in rows.items()}
    assert errors == {
        "first": None,
        "killed": "died: signal 9",
        "large": "out of memory (MemoryError: no room)",
        "hanging": "over 1 s",
        "dying": "died: exit status 7",
        "last": None,
    }
    assert rows["last"]["images_per_s"] > 0
    assert rows["last"]["of_base"] > 0
    assert "| killed | auto | jax | 4 | inference | died: signal 9 |" in capsys.readouterr().out


def test_the_side_of_pytorch_needs_no_jax():
    code = "import sys, benchmarks.programs, dynet_jax.measure.serve; print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "False\n"
