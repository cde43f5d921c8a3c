"""The comparison with PyTorch: its bookkeeping, and both sides at a tiny size."""

import json

import jax
import numpy as np
import pytest

from benchmarks import throughput, throughput_cells, throughput_jax, worker
from benchmarks.throughput_cells import FAMILIES, Cell, Subject
from dynet_jax import create_model

CELL = {"batch": 2, "image_size": 32, "width": 0.1, "dtype": "bfloat16", "small": True, "compile": "none"}


class FakeWorker:
    """Answers at once: a step takes as many seconds as the network's name has letters. One network fails."""

    asked: list = []  # noqa: RUF012

    def __init__(self, module, environment):
        self.framework = module.removeprefix("benchmarks.throughput_")

    def ask(self, question, seconds):
        self.asked.append((self.framework, question["do"]))
        if question["do"] == "describe":
            return {"is": f"{self.framework} 1.0"}
        if question["do"] == "prepare":
            names = [cell["name"] for cell in question["cells"]]
            return {name: "RuntimeError: no memory" if "efficientnet" in name else 1.0 for name in names}
        return {"seconds": len(question["name"].split(",")[0].split()[1])}

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(throughput, "Worker", FakeWorker)
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(FakeWorker, "asked", [])


def test_ratios_and_failures(fake, tmp_path, capsys):
    file = tmp_path / "rates.jsonl"
    options = ["--families=mobile", "--batch=64", "--passes=training", "--rounds=2", f"--jsonl={file}"]
    assert throughput.main(options) == 1
    printed = capsys.readouterr().out
    rows = {(row["framework"], row["network"]): row for row in map(json.loads, file.read_text().splitlines())}
    assert list(rows) == [(s.framework, s.network) for s in FAMILIES["mobile"]]
    dynamic = rows["jax", "dy_mobile"]
    assert dynamic["images_per_s"] == pytest.approx(64 / 9)
    assert dynamic["of_twin"] == pytest.approx(10 / 9)
    assert dynamic["of_base"] == dynamic["of_pytorch"] == pytest.approx(12 / 9)
    assert rows["torch", "efficientnet_cc_b0_4e"]["error"] == "RuntimeError: no memory"
    assert "| dy_mobile | jax | 64 | training | 7.11 | 7.11 to 7.11 | 1.11 | 1.33 | 1.33 |" in printed
    assert "| efficientnet_cc_b0_4e | torch | 64 | training | failed |" in printed
    frameworks = [framework for framework, do in FakeWorker.asked if do == "time"]
    assert frameworks == 2 * (3 * ["jax"] + 3 * ["torch"])  # in turns


def test_the_limit_of_time(fake, capsys):
    assert throughput.main(["--families=resnet18", "--batch=64", "--limit=1e-9"]) == 1
    assert capsys.readouterr().out.count("failed") == 2 * len(FAMILIES["resnet18"])


def test_a_framework_that_does_not_start(fake, monkeypatch, capsys):
    def ask(self, question, seconds):
        if self.framework == "torch":
            raise worker.Ended("the process ended (exit status 1)")
        return FakeWorker.ask(self, question, seconds)

    monkeypatch.setattr(throughput, "Worker", type("Broken", (FakeWorker,), {"ask": ask}))
    assert throughput.main(["--families=resnet18", "--batch=64"]) == 0
    printed = capsys.readouterr()
    assert "torch does not start: the process ended (exit status 1); its rows are left out" in printed.err
    assert "| dy_resnet18 | jax | 64 | training |" in printed.out


def test_without_pytorch(fake, monkeypatch, capsys):
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: None if name == "timm" else object())
    assert throughput.main(["--families=resnet18", "--batch=64"]) == 0
    printed = capsys.readouterr()
    assert "no timm: PyTorch's rows are left out (`make env-torch` installs it)" in printed.err
    assert "torch" not in printed.out


def test_cells_are_compared_with_cells_of_the_same_kind():
    cell = Cell(Subject("jax", "dy_resnet18", "resnet18", twin="fix_resnet18"), 64, "inference")
    twin = cell.beside("fix_resnet18")
    assert (twin.subject.network, twin.subject.framework, twin.batch, twin.which) == (
        "fix_resnet18",
        "jax",
        64,
        "inference",
    )
    assert cell.beside("resnet18", "torch").subject.framework == "torch"


def test_jax_trains_and_predicts():
    cells = [CELL | {"name": name, "network": "resnet18", "pass": name} for name in ("training", "inference")]
    run = throughput_jax.make_cell_run(cells[0])
    assert run.layout.mesh.size == 1
    state = throughput_jax.random_state(run)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, run.optimizer.init(state.params))
    for name, call in throughput_jax.prepare(cells):
        assert not isinstance(call, Exception), (name, call)
        call(2)


def test_a_step_that_does_not_compile_is_told(monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError("no such step")

    monkeypatch.setattr(throughput_jax, "make_predict_step", lambda *_, **__: jax.jit(fail))
    cell = CELL | {"name": "inference", "network": "resnet18", "pass": "inference"}
    [(name, error)] = throughput_jax.prepare([cell])
    assert (name, str(error)) == ("inference", "no such step")


def test_a_worker_answers_and_ends(monkeypatch, tmp_path):
    (tmp_path / "counting.py").write_text(
        "from benchmarks.worker import serve\n"
        "def fail(count): raise ValueError('no step')\n"
        "def prepare(cells):\n"
        "    print('noise')\n"
        "    for cell in cells: yield cell['name'], fail if cell['name'] == 'bad' else lambda count: None\n"
        "serve(prepare, lambda: 'a test')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    root = throughput_jax.CONFIGS.parent
    process = worker.Worker("counting", {"PYTHONPATH": f"{tmp_path}:{root}"})
    try:
        assert process.ask({"do": "describe"}, 60) == {"is": "a test"}
        answer = process.ask({"do": "prepare", "cells": [{"name": "good"}, {"name": "bad"}]}, 60)
        assert answer["good"] >= 0
        assert answer["bad"] == "ValueError: no step"
        assert process.ask({"do": "time", "name": "good", "seconds": 1e-6}, 60)["seconds"] > 0
        with pytest.raises(worker.Ended, match="ended"):
            process.ask({"do": "time", "name": "bad", "seconds": 1}, 60)  # it was never ready: a KeyError ends it
    finally:
        process.close()


def test_torch_frame_has_the_parameters_of_fix_mobile():
    try:
        import torch

        from benchmarks import throughput_torch, torch_networks
    except Exception as error:  # builds that do not fit one another fail in many ways
        pytest.skip(f"no PyTorch with timm, as of `make env-torch`: {error}")

    frame = throughput_cells.frame(0.25)
    network = torch_networks.create("fix_mobile", frame)
    model = create_model("fix_mobile", width=0.25)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    expected = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    images = torch.zeros(2, 3, 64, 64)
    assert torch_networks.create("condconv_mobile", frame).eval()(images).shape == (2, 1000)
    cells = [
        CELL | {"name": which, "network": "condconv_mobile", "pass": which, "frame": frame}
        for which in ("training", "inference")
    ]
    for _, call in throughput_torch.prepare(cells):
        call(2)
