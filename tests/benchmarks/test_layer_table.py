"""The table of layers keeps what it has found, through forms that end the process and a limit of time."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import dynamic_conv, layer_table, layers
from dynet_jax.measure.records import read_rows

ROOT = Path(__file__).parents[2]
FAKE = """
import json, os, signal, time
from dynet_jax.measure.serve import serve

def answer(question):
    with open(os.environ["ASKED"], "a") as file:
        print(json.dumps(question), file=file)
    if question["do"] == "describe":
        return {"jax": "1.0", "backend": "cpu", "device": "cpu", "cpus": 2, "empty": 1e-6}
    if "taps" in question["forms"]: os.kill(os.getpid(), signal.SIGKILL)
    if "im2col" in question["forms"]: time.sleep(600)
    if "vmapped_conv" in question["forms"]: raise MemoryError("1 GB")
    return [{"pass": which, "form": form, "ms": 2.0, "single": False}
            for which in ("forward", "gradient") for form in question["forms"]]

serve(answer)
"""
LAYERS = [layers.Layer(8, 3, 4, 4, 1, 1), layers.Layer(4, 3, 4, 4, 1, 1)]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The questions to a process that answers as the forms' names say; the networks have two layers, one shared."""
    (tmp_path / "fake_layers.py").write_text(FAKE)
    file = tmp_path / "asked"
    monkeypatch.setenv("ASKED", str(file))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(layer_table, "MODULE", "fake_layers")
    found = {"dy_mobile": LAYERS[:1], "dy_shuffle": LAYERS}
    monkeypatch.setattr(layers, "dynamic_layers", lambda network, width, size: found[network])

    def questions():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        return [(tuple(line["layer"]), line["forms"]) for line in lines if line["do"] == "time"]

    return questions


@pytest.mark.slow
def test_a_form_that_ends_the_process_costs_itself_only(asked, tmp_path, capsys):
    file = tmp_path / "times"
    options = ["--networks=dy_mobile", "--forms=kernel,taps,im2col,vmapped_conv", "--batch=2", f"--jsonl={file}"]
    dynamic_conv.main([*options, "--case-limit=1"])
    forms = [forms for _, forms in asked()]
    assert forms == [["kernel", "taps", "im2col", "vmapped_conv"], ["kernel"], ["taps"], ["im2col"], ["vmapped_conv"]]
    row = capsys.readouterr().out.splitlines()[-1]
    cells = "2.00 (1.00x) | died: signal 9 | over 1 s | out of memory |"
    assert row == f"| dy_mobile | 3x3 4->4, 8x8 | 2 | gradient | {cells}"
    assert len(read_rows(file)) == 2 * 4


def test_what_is_known_is_not_timed_again(asked, tmp_path, capsys):
    options = ["--networks=dy_mobile,dy_shuffle", "--batch=2", f"--jsonl={tmp_path / 'times'}"]
    dynamic_conv.main([*options, "--forms=kernel"])
    assert asked() == [(tuple(layer), ["kernel"]) for layer in LAYERS]  # the shared one once
    first = capsys.readouterr().out
    assert "| dy_mobile, dy_shuffle | 3x3 4->4, 8x8 |" in first
    dynamic_conv.main([*options, "--forms=kernel"])
    assert asked() == []
    assert capsys.readouterr().out == first
    dynamic_conv.main([*options, "--forms=kernel,auto"])
    assert asked() == [(tuple(layer), ["auto"]) for layer in LAYERS]
    dynamic_conv.main([*options, "--forms=kernel", "--dtype=bfloat16"])
    assert len(asked()) == 2


@pytest.mark.slow
def test_the_limit_of_time_keeps_what_was_found(asked, tmp_path, capsys):
    options = ["--networks=dy_shuffle", "--batch=2", f"--jsonl={tmp_path / 'times'}"]
    dynamic_conv.main([*options, "--forms=kernel"])
    asked()
    dynamic_conv.main([*options, "--forms=kernel,im2col", "--limit=2"])
    printed = capsys.readouterr()
    assert [forms for _, forms in asked()] == [["im2col"]]
    assert "the limit of 2 s: 2 of 2 cases left out" in printed.err
    assert printed.out.count("2.00 (1.00x) | - |") == 4
