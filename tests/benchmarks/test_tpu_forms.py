"""The table of layers on TPUs: what its cells say, and what is compiled for them."""

import json

import jax
import pytest

from benchmarks import tpu_forms, tpu_layer
from benchmarks.layers import Layer, layers_of
from dynet_jax.ops import backend
from dynet_jax.tpu.chips import parse_topology

MEASURED = {"bytes": 332e6, "seconds": 1151e-6, "flops": 7.42e9, "temporaries": 45_300_000, "kernels": 2}


@pytest.fixture
def compiling(monkeypatch):
    asked = []

    def measured(form, layer, batch, slice):
        asked.append((form, str(layer), batch))
        return MEASURED if form != "feature" else {"error": "does not fit: RESOURCE_EXHAUSTED: hbm"}

    monkeypatch.setattr(tpu_forms, "measured", measured)
    monkeypatch.setattr(tpu_forms, "slice_devices", lambda slice: [])
    return asked


def test_cells_say_bytes_time_operations_and_temporaries():
    assert tpu_forms.cell(MEASURED) == "332 / 1151 / 7.42 / 45"
    assert tpu_forms.cell({**MEASURED, "seconds": None}) == "332 / ? / 7.42 / 45"


@pytest.mark.slow
def test_layers_that_networks_share_are_compiled_once_and_found_again(compiling, tmp_path, capsys):
    layers = layers_of(["dy_resnet18", "dy_resnet50"], 1.0, 224)
    shared = [layer for layer, networks in layers.items() if networks == ["dy_resnet18", "dy_resnet50"]]
    assert shared
    file = tmp_path / "cells"
    options = ["--networks=dy_resnet18,dy_resnet50", "--forms=feature,auto", f"--jsonl={file}"]
    assert tpu_forms.main(options) == tpu_forms.main(options) == 0
    assert compiling == [(form, str(layer), 64) for layer in layers for form in ("feature", "auto")]
    assert [json.loads(line)["form"] for line in file.read_text().splitlines()] == ["feature", "auto"] * len(layers)
    row = next(line for line in capsys.readouterr().out.splitlines() if f" {shared[0]} " in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("dy_resnet18, dy_resnet50", str(shared[0]), "64", "does not fit", "332 / 1151 / 7.42 / 45")
    ]


def test_reasons_why_a_layer_is_not_compiled():
    hbm = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
    vmem = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem")
    assert tpu_layer.why_not(hbm).startswith("does not fit: ")
    assert tpu_layer.why_not(vmem).startswith("does not fit the fast memory: ")
    assert tpu_layer.why_not(ValueError("no such layer")) == "fails: ValueError: no such layer"


def test_kernels_are_those_of_the_chip(monkeypatch):
    """Asked of the compiler's device, and by all forms of a layer alike."""
    kinds = []

    def look(*_, **__):
        kinds.append((backend.target_backend(), backend.target_device_kind()))
        raise RuntimeError("seen")

    device = type("Device", (), {"device_kind": "TPU v4"})()
    monkeypatch.setattr(tpu_layer, "slice_devices", lambda slice: [device])
    monkeypatch.setattr(tpu_layer, "_shapes", lambda *_: [jax.ShapeDtypeStruct((2,), "float32")])
    monkeypatch.setattr(tpu_layer, "form_function", lambda form: look)
    monkeypatch.setattr(tpu_layer.jax.sharding, "SingleDeviceSharding", lambda device: None)
    layer = Layer(size=4, kernel_size=3, c_in=2, c_out=2, strides=1, groups=1)
    row = tpu_layer.measured("auto", layer, 2, parse_topology("v4:1x1x1"))
    assert row == {"error": "fails: RuntimeError: seen"}
    assert kinds == [("tpu", "TPU v4")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forms=auto,pallas"], "argument --forms: unknown name 'pallas'"),
        (["--networks=resnet18"], "argument --networks: unknown name 'resnet18'"),
        (["--batch=64,0"], "argument --batch: must be a positive int"),
        (["--chip=v6e:1x1"], "argument --chip: the clock of v6e:1x1 is not published"),
    ],
)
def test_mistakes_are_one_line(arguments, message, compiling, capsys):
    with pytest.raises(SystemExit):
        tpu_forms.main(arguments)
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
