"""`dynet benchmark`: conclusions from measurements, the measurements themselves, and the command at a tiny size."""

import dataclasses
import math
import os
import shutil
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dynet_jax.analysis import (
    latency_compare,
    latency_networks,
    latency_plots,
    latency_report,
    latency_runtimes,
    latency_worker,
)
from dynet_jax.analysis.latency import (
    LatencyPlan,
    Measurement,
    Parts,
    failure,
    measure_group,
    runs_of,
)
from dynet_jax.analysis.latency_worker import LatencyWorkers, Measuring, Ready
from dynet_jax.analysis.runtimes import RUNTIMES, Cell, random_images, register_runtime
from dynet_jax.cli import main
from dynet_jax.cli.benchmark import FILES
from dynet_jax.errors import UserError
from dynet_jax.machine import cores

TINY = ["benchmark", "--networks=dy_mobile", "--width=0.1", "--image-size=32", "--runs=2", "--threads=1"]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def cell(network="dy_mobile", runtime="native", numbers="float32", threads=1, size=224, batch=1):
    return Cell("dy_mobile", network, runtime, numbers, threads, size, batch)


def measurement(milliseconds, *arguments, **options):
    seconds = milliseconds / 1000
    return Measurement(cell(*arguments, **options), 50, seconds, 0.9 * seconds, 0.95 * seconds, 1.1 * seconds, 0.0)


@pytest.fixture
def measured():
    return [
        measurement(4, "dy_mobile", "native"),
        measurement(2, "dy_mobile", "native", "int8-banks"),
        measurement(10, "dy_mobile", "jax"),
        failure(cell("dy_mobile", "openvino"), "RuntimeError: not so"),
        measurement(8, "mobilenet_v2", "native"),
        measurement(7, "mobilenet_v2", "native", "int8-banks"),
        measurement(5, "mobilenet_v2", "jax"),
        measurement(3, "mobilenet_v2", "onnxruntime"),
        measurement(6, "mobilenet_v2", "openvino"),
        measurement(2, "mobilenet_v2", "openvino", "bfloat16"),
        measurement(1, "mobilenet_v2", "onnxruntime", threads=2),  # more threads: not a reference for one
    ]


def test_ratios(measured):
    native = latency_compare.compare(measured, cell())
    assert native.same_runtime == pytest.approx(8 / 4)
    assert native.to_fastest == pytest.approx(2 / 4)
    assert native.like_for_like == native.to_fastest_float32 == pytest.approx(3 / 4)
    assert latency_compare.label(native.fastest_base.cell) == "openvino bfloat16"
    assert latency_compare.compare(measured, cell(numbers="int8-banks")).like_for_like == pytest.approx(1)
    assert latency_compare.compare(measured, cell(numbers="int8-banks")).same_runtime == pytest.approx(7 / 2)
    assert latency_compare.compare(measured, cell(runtime="jax")).to_fastest == pytest.approx(2 / 10)
    failed = latency_compare.compare(measured, cell(runtime="openvino"))
    assert failed.same_runtime is None
    assert failed.to_fastest is None


def test_reductions(measured):
    larger = [measurement(5, size=448), measurement(40, "mobilenet_v2", size=448)]
    both = latency_compare.reductions(measured + larger, 1, "native")
    assert both == {"dy_mobile": {224: pytest.approx(0.5), 448: pytest.approx(1 - 5 / 40)}}
    fastest = latency_compare.reductions(measured + larger, 1, None)
    assert fastest == {"dy_mobile": {224: pytest.approx(0), 448: pytest.approx(1 - 5 / 40)}}
    assert latency_compare.reductions(measured, 2, None) == {}


def test_tables(measured):
    exact, rounded, two_threads = latency_report.summary_table(measured, 224, 1).rows
    assert exact[:7] == ("dy_mobile", "1", 4, "native", "mobilenet_v2", 3, "onnxruntime")
    assert exact[7:] == (pytest.approx(3 / 4), 58.3, 109.1, pytest.approx(1.87, abs=0.005))
    assert rounded[2:8] == (2, "native int8-banks", "mobilenet_v2", 2, "openvino bfloat16", 1)
    assert two_threads[2:8] == (None, None, "mobilenet_v2", 1, "onnxruntime", None)
    rows = {row[1]: row[2:] for row in latency_report.runtime_table(measured, 224, 1, 1).rows}
    assert list(rows) == ["native", "native int8-banks", "jax", "openvino", "onnxruntime", "openvino bfloat16"]
    assert rows["native"] == (
        4,
        "3.80 to 4.40",
        pytest.approx(3.6),
        8,
        "7.60 to 8.80",
        pytest.approx(7.2),
        2,
        0.5,
        0.75,
    )
    assert rows["openvino"] == ("failed", None, None, 6, "5.70 to 6.60", pytest.approx(5.4), None, None, None)
    assert rows["onnxruntime"][:3] == (None, None, None)


def test_throughput_is_images_per_second():
    batch = [measurement(100, batch=32), measurement(200, "mobilenet_v2", batch=32)]
    (row,) = latency_report.runtime_table(batch, 224, 32, 1).rows
    assert row[2:5] == (pytest.approx(320), "290.91 to 336.84", pytest.approx(320 / 0.9))
    assert row[8:] == (2, 2, 2)
    (row,) = latency_report.summary_table(batch, 224, 32).rows
    assert len(row) == 8  # the paper has no batches


def test_document(measured):
    parts = [Parts(cell(), 0.001, 0.001, 0.005, 0.003)]
    text = latency_report.document(measured, parts, ["a note"])
    assert "- a note\n" in text
    assert "- openvino, dy_mobile: RuntimeError: not so\n" in text
    assert latency_report.parts_table(parts).rows == [("dy_mobile", "float32", "1", 10, 10, 10, 50, 30)]
    assert "Fig. 7" not in text  # there is one size
    text = latency_report.document(
        [*measured, measurement(5, size=448), measurement(6, "mobilenet_v2", size=448)], [], []
    )
    assert "+16.7 %" in text


def test_disturbance(measured):
    assert latency_report.disturbance(measured) == []
    wide = [m._replace(upper_quartile=3 * m.median) for m in measured]
    assert "something else was running" in latency_report.disturbance(wide)[0]


def test_csv_comes_back(measured, tmp_path):
    file = tmp_path / "latency.csv"
    file.write_text(latency_compare.csv_of(measured))
    again = latency_compare.read_csv(file)
    assert [m.cell for m in again] == [m.cell for m in measured]
    assert [m.error for m in again] == [m.error for m in measured]
    assert [m[1:7] for m in again if not m.error] == [m[1:7] for m in measured if not m.error]
    assert math.isnan(again[3].median)
    assert file.read_text().splitlines()[1].endswith(",250.0,2.0,0.5,openvino bfloat16,0.75,onnxruntime")
    file.write_text(file.read_text().replace(",calibration,", ",a_name_to_come,"))  # of an earlier version
    assert [m.cell for m in latency_compare.read_csv(file)] == [m.cell for m in measured]


def test_plots(measured, tmp_path):
    sizes = [measurement(n, network, size=32 * n) for n in (2, 3) for network in ("dy_mobile", "mobilenet_v2")]
    latency_plots.plot_reductions(measured + sizes, tmp_path / "ratio.png", "title")
    latency_plots.plot_table2(measured, tmp_path / "bars.png", "title")
    base = latency_compare.select(measured, is_dynamic=False)  # torch alone has no dynamic networks
    latency_plots.plot_reductions(base, tmp_path / "ratio2.png", "title")
    latency_plots.plot_table2(base, tmp_path / "bars2.png", "title")
    for file in ("ratio.png", "bars.png", "ratio2.png", "bars2.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


def test_all_take_turns():
    """Every round has each cell once; slow cells have fewer runs; a failure does not end the others."""
    fast, slow, wrong, broken = (cell(runtime=name) for name in ("native", "jax", "openvino", "onnxruntime"))
    logits = np.array([1.0, -2.0])
    answers = {fast: Ready(0.01, logits), slow: Ready(2, logits), wrong: Ready(0.01, -logits), broken: "no"}
    timed = []

    class Fake:
        def prepare(self, cell):
            return answers[cell]

        def time(self, cell):
            timed.append(cell)
            return answers[cell].seconds

    measured = measure_group([fast, slow, wrong, broken], Fake(), 20, lambda *_: None)
    assert [(m.runs, m.median) for m in measured[:2]] == [(20, 0.01), (10, 2)]
    assert measured[1].deviation == 0
    assert "computes a wrong result" in measured[2].error
    assert measured[3].error == "no"
    assert timed[:5] == [fast, wrong, wrong, slow, fast]  # to and fro
    assert runs_of(100, 50) == 5


def test_threads_that_spin_are_waited_for(monkeypatch):
    """The wait comes before the next runtime has its turn."""
    waits = []
    monkeypatch.setattr(latency_worker.time, "sleep", waits.append)
    for runtime in ("onnxruntime", "native"):
        measuring = Measuring()
        measuring._ready[cell(runtime=runtime)] = (lambda images: waits.append("run")), None
        assert 0 < measuring.time(cell(runtime=runtime)) < 1
        runs, wait = waits[:-1], waits[-1]
        assert (set(runs), wait) == ({"run"}, RUNTIMES[runtime].seconds_of_spinning)
        waits.clear()
    assert RUNTIMES["onnxruntime"].seconds_of_spinning > 0 == RUNTIMES["native"].seconds_of_spinning


def test_plan():
    plan = LatencyPlan(
        ["dy_mobile", "dy_resnet18"], [("native", "int8-banks"), ("torch", "float32")], [1, 2], [224, 64], runs=2
    )
    groups = plan.groups()
    assert [(group[0].pair, group[0].image_size) for group in groups] == [
        ("dy_mobile", 224), ("dy_mobile", 64), ("dy_resnet18", 224), ("dy_resnet18", 64),
    ]  # fmt: skip
    assert [(c.network, c.runtime, c.threads) for c in groups[0]] == [
        *(("dy_mobile", "native", threads) for threads in (1, 2)),
        *(("mobilenet_v2", runtime, threads) for runtime in ("native", "torch") for threads in (1, 2)),
    ]


def test_a_network_without_a_base(tmp_path):
    """It has its own time, and figures that say that there is nothing to compare it with."""
    plan = LatencyPlan(["mobilenet_v2"], [("native", "float32"), ("jax", "float32")], [1], [224])
    cells = [cell for group in plan.groups() for cell in group]
    assert [(c.pair, c.network) for c in cells] == [("mobilenet_v2", "mobilenet_v2")] * 2
    alone = [Measurement(c, 50, ms / 1000, ms / 1000, ms / 1000, ms / 1000) for c, ms in zip(cells, (8, 9))]
    text = latency_report.document(alone, [], [])
    assert "| mobilenet_v2 | 1       | 8.00 | native |" in text
    row = next(line for line in text.splitlines() if line.startswith("| mobilenet_v2"))
    assert [value.strip() for value in row.split("|")[5:9]] == [""] * 4
    latency_plots.plot_reductions(alone, tmp_path / "ratio.png", "none")
    latency_plots.plot_table2(alone, tmp_path / "table2.png", "none")


def test_cores_of_this_process():
    assert set(cores()) <= os.sched_getaffinity(0)


@pytest.mark.slow
def test_random_networks_are_tame():
    program = latency_networks.random_program("dy_resnet18", 0.1)
    kernels = [np.abs(operation.bias).max() for operation in program.operations if hasattr(operation, "bias")]
    assert max(kernels) == 0
    model = latency_runtimes.InferenceModel(
        program, latency_runtimes.Preprocessing(32, 32, latency_runtimes.MEAN, latency_runtimes.STD), runtime="jax"
    )
    largest = np.abs(model.logits(random_images(cell(size=32)))).max()
    assert 1e-6 < largest < 1e3


def test_a_process_that_ends_is_a_mistake_not_a_hang():
    with LatencyWorkers() as workers:
        os.kill(workers[1].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="has ended; is there enough memory"):
            workers.time(cell())


@pytest.mark.slow
def test_processes_have_ended_before_anything_else_is_timed():
    with LatencyWorkers() as workers:
        pid = workers[1].pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


OWN_RUNTIME = """
import os
from dynet_jax.analysis.latency_runtimes import inference_model
from dynet_jax.analysis.runtimes import register_runtime

@register_runtime("own", numbers=("float32", "int8-banks"), has=lambda network, width: network == "dy_mobile")
def own(cell):
    "A runtime of the user."
    if cell.numbers == "int8-banks":
        raise RuntimeError("no room")
    assert len(os.sched_getaffinity(0)) == cell.threads
    return inference_model(cell, "jax").logits
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="it asks whether it is pinned")
def test_a_runtime_is_one_function(monkeypatch, tmp_path, capfd):
    """It is listed and measured as this package's are, in the process that measures, too."""
    (tmp_path / "own.py").write_text(OWN_RUNTIME)
    (tmp_path / "sitecustomize.py").write_text("import own")  # for the process that measures
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with mock.patch.dict(RUNTIMES):
        exec(OWN_RUNTIME, {})
        assert main(["benchmark", "--list"]) == 0
        line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("| own "))
        assert [word.strip() for word in line.split("|")[1:5]] == [
            "own", "A runtime of the user", "float32, int8-banks", "as told",
        ]  # fmt: skip
        assert main([*TINY, "--runtimes=own", f"--out={tmp_path / 'out'}"]) == 0
    found = latency_compare.read_csv(tmp_path / "out" / "latency.csv")
    assert [(m.cell.network, m.cell.numbers, m.error) for m in found] == [
        ("dy_mobile", "float32", ""),
        ("dy_mobile", "int8-banks", "RuntimeError: no room"),
    ]
    assert found[0].median > 0


def test_a_runtime_has_a_name_of_its_own():
    with pytest.raises(ValueError, match="'jax' is registered already"):
        register_runtime("jax")(len)


@pytest.mark.slow
def test_the_command(tmp_path, capfd):
    """All installed runtimes run, native with all numbers if there is a compiler."""
    arguments = [*TINY, f"--out={tmp_path / 'new' / 'folder'}", "--runtimes=jax,native,onnxruntime"]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    (table2,) = (tmp_path / "new" / "folder" / name for name in FILES if name.endswith(".md"))
    assert table2.read_text() == out
    assert "32 px" in out
    for name in FILES:
        assert (tmp_path / "new" / "folder" / name).stat().st_size > 100
    measurements = latency_compare.read_csv(tmp_path / "new" / "folder" / "latency.csv")
    labels = {latency_compare.label(m.cell) for m in measurements}
    assert "jax" in labels
    assert {"native", "native bfloat16-banks", "native int8-banks"} <= labels or not COMPILER
    assert {m.cell.network for m in measurements} == {"dy_mobile", "mobilenet_v2"}
    assert all(m.error == "" and m.runs == 2 and m.median > 0 for m in measurements), out
    assert all(m.deviation < (0.5 if m.cell.numbers == "int8" else 0.1) for m in measurements), out
    assert ("| fusion % |" in out) == bool(COMPILER)
    before = {name: (tmp_path / "new" / "folder" / name).read_bytes() for name in FILES}
    assert main(arguments) == 2  # before anything is measured
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "--overwrite" in err
    assert {name: (tmp_path / "new" / "folder" / name).read_bytes() for name in FILES} == before


def test_a_measurement_that_dies_does_not_block_the_next(monkeypatch, tmp_path, capfd):
    def dies(plan, say):
        raise UserError("the process that measured has ended")

    arguments = [*TINY, f"--out={tmp_path}", "--runtimes=jax"]
    for _ in range(2):
        monkeypatch.setattr("dynet_jax.analysis.latency.measure", dies)
        assert main(arguments) == 2
        assert "has ended" in capfd.readouterr().err
    (tmp_path / FILES[0]).write_text("of some networks")  # what was measured before it died is kept
    assert main(arguments) == 2
    assert f"has {FILES[0]} already" in capfd.readouterr().err


def test_numbers_that_a_runtime_has_not_are_not_measured_as_others(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("dynet_jax.analysis.latency.measure", lambda plan, say: iter([([measurement(1)], [])]))
    assert main([*TINY, "--runtimes=jax,onnxruntime", "--numbers=float32"]) == 0
    capfd.readouterr()
    assert main([*TINY, "--runtimes=jax,onnxruntime", "--numbers=int8-banks"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "jax is not measured: it has float32 alone; onnxruntime is not measured: it has float32, int8 alone" in error


def test_what_is_not_installed_is_named(monkeypatch, tmp_path, capfd):
    without = dataclasses.replace(RUNTIMES["openvino"], packages=("onnx", "no_such_package"))
    monkeypatch.setitem(RUNTIMES, "openvino", without)
    monkeypatch.setattr("dynet_jax.analysis.latency.measure", lambda plan, say: iter([([measurement(1)], [])]))
    assert main([*TINY, "--runtimes=openvino,jax"]) == 0
    out, err = capfd.readouterr()
    line = "openvino is not measured: not installed; pip install onnx no_such_package"
    assert line in err.splitlines()
    assert f"- {line}" in out.splitlines()
    assert main([*TINY, "--runtimes=openvino", f"--out={tmp_path / 'out'}"]) == 2
    assert capfd.readouterr().err == f"dynet: there is no runtime to measure: {line}\n"
    assert not Path(tmp_path / "out").exists()
