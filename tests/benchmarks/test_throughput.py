"""The comparison with PyTorch: its bookkeeping, and both sides at a tiny size."""

import functools
import json

import jax
import numpy as np
import pytest

from benchmarks import throughput, throughput_cells, throughput_jax
from benchmarks.programs import Programs
from benchmarks.throughput_cells import FAMILIES, Cell, Subject
from dynet_jax import create_model
from dynet_jax.measure import records, worker
from dynet_jax.measure.failures import Ended

CELL = {"batch": 2, "image_size": 32, "width": 0.1, "dtype": "bfloat16", "small": True, "compile": "none"}
CELL |= {"form": "auto"}


class FakeWorker:
    """Answers at once: a step takes as many seconds as the network's name has letters. One network fails."""

    asked: list = []  # noqa: RUF012

    def __init__(self, module):
        self.framework = module.removeprefix("benchmarks.throughput_")

    def ask(self, question, seconds):
        self.asked.append((self.framework, question["do"]))
        if question["do"] == "describe":
            return {"is": f"{self.framework} 1.0", "runs_on": "gpu"}
        if question["do"] == "forget":
            return {}
        if question["do"] == "prepare":
            names = [cell["name"] for cell in question["cells"]]
            return {name: "RuntimeError: no memory" if "efficientnet" in name else None for name in names}
        return len(question["name"].split(",")[0].split()[1])

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(worker, "Worker", FakeWorker)
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
    assert "| dy_mobile | auto | jax | 64 | training | 7.11 | 7.11 to 7.11 | 1.11 | 1.33 | 1.33 |" in printed
    assert "| efficientnet_cc_b0_4e | auto | torch | 64 | training | RuntimeError: no memory |" in printed
    frameworks = [framework for framework, do in FakeWorker.asked if do == "time"]
    assert frameworks == 3 * ["jax"] + 6 * ["torch"] + 3 * ["jax"]  # in turns, to and fro


def test_every_form_of_a_dynamic_network_is_compared_with_its_static_ones(fake, tmp_path, monkeypatch):
    file = tmp_path / "rates.jsonl"
    options = ["--families=shuffle", "--batch=64", "--passes=training", "--rounds=1", f"--jsonl={file}"]
    assert throughput.main([*options, "--forms=auto,pallas"]) == 0
    rows = records.read_rows(file)
    assert [(row["framework"], row["network"], row["form"]) for row in rows] == [
        *[("jax", "shufflenet_v2", "auto"), ("jax", "dy_shuffle", "auto"), ("jax", "dy_shuffle", "pallas")],
        *[("jax", "fix_shuffle", "auto"), ("torch", "shufflenet_v2", "auto")],
    ]
    assert [row["of_twin"] for row in rows if row["network"] == "dy_shuffle"] == [pytest.approx(11 / 10)] * 2
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    assert throughput.parse_arguments(options).forms == ["pallas"]


def test_names_of_networks_in_pytorch():
    assert throughput_cells.torch_names("mobilenet_v2")["timm"] == "mobilenetv2_100"
    assert throughput_cells.torch_names("shufflenet_v2") == {"timm": None, "torchvision": "shufflenet_v2_x1_0"}
    assert throughput_cells.torch_names("efficientnet_cc_b0_4e")["timm"] == "efficientnet_cc_b0_4e"


@pytest.mark.slow
def test_a_step_is_compiled_in_the_form_that_is_asked_for():
    texts = {}
    for form in ("kernel", "feature"):
        run = throughput_jax.make_cell_run(CELL | {"network": "dy_resnet18"})
        step, arguments = throughput_jax._step(run, throughput_jax.random_state(run), training=False)
        texts[form] = throughput_jax._lower(step, arguments, form).as_text(debug_info=True)
    for form, other in (("kernel", "feature"), ("feature", "kernel")):
        assert f"dynamic_conv_{form}_fusion" in texts[form]
        assert f"dynamic_conv_{other}_fusion" not in texts[form]


def test_the_limit_of_time(fake, capsys):
    assert throughput.main(["--families=resnet18", "--batch=64", "--limit=1e-9"]) == 1
    assert capsys.readouterr().out.count("no time was left |") == 2 * len(FAMILIES["resnet18"])


def test_a_framework_that_does_not_start(fake, monkeypatch, capsys):
    def ask(self, question, seconds):
        if self.framework == "torch":
            raise Ended("died: exit status 1")
        return FakeWorker.ask(self, question, seconds)

    monkeypatch.setattr(worker, "Worker", type("Broken", (FakeWorker,), {"ask": ask}))
    assert throughput.main(["--families=resnet18", "--batch=64"]) == 0
    printed = capsys.readouterr()
    assert "torch does not start: died: exit status 1; its rows are left out" in printed.err
    assert "| dy_resnet18 | auto | jax | 64 | training |" in printed.out


def test_without_pytorch(fake, monkeypatch, capsys):
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: None if name == "timm" else object())
    assert throughput.main(["--families=resnet18", "--batch=64"]) == 0
    printed = capsys.readouterr()
    assert "no timm: PyTorch's rows are left out (`make env-gpu` installs it)" in printed.err
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


@pytest.mark.slow
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


def test_frameworks_on_different_devices_are_not_compared(fake, monkeypatch, capsys):
    def ask(self, question, seconds):
        answer = FakeWorker.ask(self, question, seconds)
        return {**answer, "runs_on": "cpu"} if question["do"] == "describe" and self.framework == "torch" else answer

    monkeypatch.setattr(worker, "Worker", type("OnCpu", (FakeWorker,), {"ask": ask}))
    assert throughput.main(["--families=resnet18", "--batch=64"]) == 2
    printed = capsys.readouterr()
    line = "throughput: nothing is compared: jax on gpu, torch on cpu; `make env-gpu` installs both for CUDA\n"
    assert (printed.out, printed.err) == ("", line)


def torch_side() -> tuple:
    """Imported here: it is not everywhere."""
    try:
        import torch

        from benchmarks import throughput_torch, torch_networks
    except Exception as error:  # builds that do not fit one another fail in many ways
        pytest.skip(f"no PyTorch with timm, as of `make env-torch`: {error}")
    return torch, throughput_torch, torch_networks


@pytest.mark.slow
def test_torch_compiles_nothing_while_it_is_timed(monkeypatch):
    torch, throughput_torch, _ = torch_side()
    tracing_only = functools.partial(torch.compile, backend="eager", dynamic=False)
    monkeypatch.setattr(throughput_torch, "_compiler", lambda mode: tracing_only)
    programs = Programs(throughput_torch.prepare, throughput_torch.describe, throughput_torch.forget)
    frame = throughput_cells.frame(0.25)
    names = [f"{network} {which}" for network in ("fix_mobile", "resnet18") for which in ("training", "inference")]
    cells = []
    for name in names:
        network, which = name.split()
        names_there = throughput_cells.torch_names(network)
        cells.append(CELL | {"name": name, "network": network, "pass": which, "frame": frame, **names_there})
    programs.answer({"do": "forget"})
    prepared = programs.answer({"do": "prepare", "cells": cells})
    assert prepared == dict.fromkeys(names)
    statistics = torch._dynamo.utils.counters["stats"]
    graphs = statistics["unique_graphs"]
    assert graphs >= len(names)
    for name in names:
        assert programs.answer({"do": "time", "name": name, "seconds": 0.01}) > 0
    assert statistics["unique_graphs"] == graphs


def test_torch_frame_has_the_parameters_of_fix_mobile():
    torch, throughput_torch, torch_networks = torch_side()
    frame = throughput_cells.frame(0.25)
    network = torch_networks.create("fix_mobile", frame)
    model = create_model("fix_mobile", width=0.25)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    expected = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    images = torch.zeros(2, 3, 64, 64)
    assert torch_networks.create("condconv_mobile", frame).eval()(images).shape == (2, 1000)
    no_names = {"timm": None, "torchvision": None}
    cells = [
        CELL | {"name": which, "network": "condconv_mobile", "pass": which, "frame": frame} | no_names
        for which in ("training", "inference")
    ]
    for _, call in throughput_torch.prepare(cells):
        call(2)


@pytest.mark.slow
def test_small(tmp_path, capfd):
    """The command itself, with its processes: a few narrow networks of JAX, compiled and timed."""
    file = tmp_path / "rates.jsonl"
    options = ["--small", "--frameworks=jax", "--passes=inference", "--rounds=1", f"--jsonl={file}"]
    assert throughput.main(options) == 0
    rows = records.read_rows(file)
    assert [row["network"] for row in rows] == ["mobilenet_v2", "dy_mobile", "fix_mobile"]
    assert all(row["images_per_s"] > 0 for row in rows)
    printed = capfd.readouterr().out
    assert printed.startswith(f"jax {jax.__version__} on ")
    assert "| dy_mobile | auto | jax | 4 | inference |" in printed
