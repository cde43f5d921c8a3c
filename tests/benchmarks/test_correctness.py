"""The check of an accelerator, on a CPU: it passes there, and does not where a form is wrong."""

import json

import pytest

from benchmarks import correctness, correctness_cases, forms
from benchmarks.layers import Layer
from dynet_jax.ops.backend import tracing_for


@pytest.fixture
def one_layer(monkeypatch):
    layer = Layer(7, 3, 4, 8, 2, 2)
    names = ("static", "feature", "kernel", "im2col")
    cases = [
        correctness_cases.FormCase(form, "grouped", layer, dtype)
        for form in names
        for dtype in correctness_cases.DTYPES
    ]
    monkeypatch.setattr(correctness, "form_cases", lambda size, forms: cases)


@pytest.mark.slow
def test_forms_pass(one_layer, tmp_path, capsys):
    file = tmp_path / "cases.jsonl"
    assert correctness.main(["--only=forms", f"--jsonl={file}"]) == 0
    printed = capsys.readouterr().out
    assert "a CPU, against itself" in printed
    assert "8 of 8 cases passed; 0 left out" in printed
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(row["passed"] and row["error"] < row["tolerance"] for row in rows)
    assert max(row["error"] for row in rows if row["dtype"] == "bfloat16") > 1e-4  # it was bfloat16


@pytest.mark.slow
def test_wrong_and_broken_forms_do_not(one_layer, monkeypatch, capsys):
    monkeypatch.setitem(
        forms.PER_IMAGE, "im2col", lambda x, kernels, **options: 1.001 * forms.taps(x, kernels, **options)
    )
    monkeypatch.setattr(forms, "conv", lambda *_, **__: 1 / 0)
    assert correctness.main(["--only=forms"]) == 1
    printed = capsys.readouterr().out
    assert "5 of 8 cases passed" in printed  # 0.1 % is within bfloat16's tolerance
    lines = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in printed.splitlines() if "|" in line}
    assert "1.0e-03" in lines["im2col", "float32"]
    assert "NO" in lines["im2col", "float32"]
    assert "failed" in lines["static", "float32"]


@pytest.mark.slow
def test_networks_pass(capsys):
    assert correctness.main(["--only=networks", "--networks=resnet18", "--width=0.1"]) == 0
    assert "2 of 2 cases passed" in capsys.readouterr().out


def test_cases_cover_every_form_kind_and_network():
    cases = correctness_cases.form_cases(size=15)
    assert {case.form for case in cases} == set(forms.FORMS)
    assert {(case.kind, case.layer.strides) for case in cases if case.form == "auto"} == {
        (kind, strides) for kind in correctness_cases.KINDS for strides in (1, 2)
    }
    assert {case.form for case in correctness_cases.form_cases(size=15, forms=["auto"])} == {"auto"}
    networks = correctness_cases.network_cases("*", 0.25)
    assert {case.network for case in networks} >= {"dy_mobile", "dy_shuffle", "dy_resnet50", "condconv_resnet18"}


@pytest.mark.parametrize("dtype", correctness_cases.DTYPES)
@pytest.mark.parametrize("kind", ["grouped, as many out as in", "pointwise", "dense"])
def test_cases_run_the_kernels_for_gpus_where_they_are_asked_for(kind, dtype, monkeypatch):
    """In both types. Kernels round float32 as the matrix units do, so more is allowed; but not for XLA's forms."""
    [case] = [
        case
        for case in correctness_cases.form_cases(size=5, forms=["auto"])
        if (case.kind, case.layer.strides, case.dtype) == (kind, 1, dtype)
    ]

    def kernels():
        with tracing_for("gpu"):
            return str(correctness_cases.traced(case, dtype, case.operands()).jaxpr).count("pallas_call[")

    assert kernels() == 0
    exact = case.tolerance
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    assert kernels() >= 2  # forward and backward
    assert case.tolerance == (0.01 if dtype == "float32" else exact)


def test_networks_by_kernels_may_differ_as_rounding_does(monkeypatch):
    exact, half = correctness_cases.network_cases("dy_mobile", 0.25)
    assert (exact.rounded, half.rounded) == (None, half)
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    assert exact.rounded == half
    assert exact.tolerance == half.tolerance


def test_the_limit_of_time(one_layer, capsys):
    assert correctness.main(["--only=forms", "--limit=1e-9"]) == 3
    assert "8 left out for want of time" in capsys.readouterr().out
