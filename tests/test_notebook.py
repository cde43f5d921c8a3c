"""The notebook of examples/ in a kernel, from its first cell to its last, and an interrupt in a cell that trains."""

import os
import re
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.metrics import read_metrics
from tests.quick_compilation import flags

ROOT = Path(__file__).parents[1]
SECONDS = 900
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Of a kernel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", flags(devices=1))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


def text_of(cell) -> str:
    """What a cell has printed."""
    return "".join(output["text"] for output in cell.outputs if output.output_type == "stream")


def test_the_notebook(tmp_path):
    notebook = nbformat.read(ROOT / "examples/dynamic_convolution.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # they would be out of date
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(map(text_of, (cell for cell in notebook.cells if cell.cell_type == "code")))
    assert "photographs (2, 100, 150, 3) -> maps (2, 50, 75, 16)" in printed
    assert float(re.search(r"largest difference (\S+)", printed)[1]) < 1e-4
    assert float(re.search(r"test accuracy (\S+) %", printed)[1]) > 50  # chance: 10
    assert (tmp_path / "runs/notebook/digits.onnx").stat().st_size > 100_000
    figures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 2  # the curves, and the coefficients


def test_an_interrupt_saves_and_the_kernel_lives(tmp_path):
    """As the stop button sends it. The cell ends without an error, and the next one goes on with the run."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=dict(os.environ))
    try:
        setup = """
from dynet_jax.config.load import load_config, override
from dynet_jax.train.loop import train
from tests.train import tiny_run
config = tiny_run.get_config().unlock()
config.epochs = 200.0
"""
        assert client.execute_interactive(setup, timeout=SECONDS, output_hook=print)["content"]["status"] == "ok"
        client.execute("code = train(config, __import__('pathlib').Path('run'))")
        end = time.monotonic() + SECONDS
        while not read_metrics(tmp_path / "run/metrics.jsonl", "train"):
            assert time.monotonic() < end
            time.sleep(0.05)
        manager.interrupt_kernel()
        answer = client.execute_interactive("assert code == 75, code", timeout=SECONDS, output_hook=print)
        assert answer["content"]["status"] == "ok"
        assert manager.is_alive()
        assert Checkpoints(tmp_path / "run").latest_step > 0
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
