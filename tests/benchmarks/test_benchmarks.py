"""The benchmark runs at a tiny size and prints what it promises."""

import itertools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import console, dynamic_conv, forms, layer_timing, layers, network_forms, timing, training_step
from dynet_jax import create_model, ops
from dynet_jax.measure.failures import Deadline

CELL = re.compile(r"~?(\d+(?:\.\d+)?) \((\d+(?:\.\d+)?)x\)")


def run(capsys, command):
    dynamic_conv.main(command.split())
    return capsys.readouterr()


def table(text):
    """The cells of a Markdown table, header row first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


@pytest.mark.slow
def test_table_has_a_row_per_layer_and_pass_and_a_column_per_form(tmp_path, capsys):
    # So small and narrow that few layers are distinct: nearly all of the time goes to compilation.
    file = tmp_path / "table.md"
    options = "--networks dy_resnet18 --batch 2 --image-size 32 --width 0.02 --repeats 1"
    printed = run(capsys, f"{options} --markdown {file}")
    assert printed.out == file.read_text()
    assert printed.out.startswith(f"jax {jax.__version__}, backend cpu")

    head, *rows = table(printed.out)
    assert head[4:] == [f"{form} ms" for form in forms.USUAL_FORMS]
    found = dict.fromkeys(layers.dynamic_layers("dy_resnet18", 0.02, 32))
    assert [row[:4] for row in rows] == [
        ["dy_resnet18", str(layer), "2", mode] for layer in found for mode in layers.PASSES
    ]
    assert printed.err.count(f"/{len(found)}] after") == len(found)
    for row in rows:
        numbers = [CELL.fullmatch(cell).groups() for cell in row[4:]]
        assert all(float(milliseconds) > 0 and float(ratio) > 0 for milliseconds, ratio in numbers)
        assert numbers[0][1] == "1.00"


@pytest.mark.slow
def test_layers_are_those_of_the_networks():
    mobile = set(map(str, layers.dynamic_layers("dy_mobile", 1.0, 224)))
    assert {"1x1 32->18, 112x112", "3x3 162->162, 14x14, groups 27, stride 2", "1x1 324->324, 7x7"} <= mobile
    assert len(mobile) == 25
    resnet = set(map(str, layers.dynamic_layers("dy_resnet18", 1.0, 224)))
    assert {"3x3 64->32, 56x56", "3x3 32->64, 56x56, stride 2", "3x3 256->256, 7x7"} <= resnet
    assert len(resnet) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_size", "groups", "strides"), [(3, 2, 2), (3, 1, 1), (3, 4, 1), (1, 1, 1), (1, 2, 2)])
def test_all_forms_compute_the_same_function(kernel_size, groups, strides):
    layer = layers.Layer(size=5, kernel_size=kernel_size, c_in=4, c_out=8, strides=strides, groups=groups)
    inputs = layers.layer_inputs(layer, batch=2)
    expected = {}
    for form in forms.FORMS:
        for which in layers.PASSES:
            result = jax.jit(layers.layer_function(form, layer, which))(*layers.operands_of(form, inputs))
            # The first static form is what the static ones must give, the first dynamic one what the others must.
            wanted = expected.setdefault((form in forms.STATIC, which), result)
            assert layers.largest_error(result, wanted) < 1e-5, (form, which)
    one_kernel = jnp.zeros((2, 6, 8)).at[:, 0].set(1.0)
    static_again = layers.layer_function("im2col", layer, "forward")(*inputs[:2], one_kernel)
    np.testing.assert_allclose(static_again, expected[True, "forward"], atol=1e-4)


@pytest.mark.slow
def test_a_wrong_form_is_not_timed(monkeypatch):
    monkeypatch.setitem(forms.PER_IMAGE, "im2col", lambda x, kernels, **_: 1.1 * forms.taps(x, kernels))
    monkeypatch.setitem(forms.PER_IMAGE, "taps", lambda x, kernels, **_: jnp.zeros((2, 0)))
    layer = layers.Layer(size=4, kernel_size=3, c_in=2, c_out=2, strides=1, groups=1)
    rows = list(layer_timing.time_layer(layer, 2, ["kernel", "im2col", "taps"], "bfloat16", 1, 20.0, Deadline(600)))
    places = itertools.product(layers.PASSES, ["kernel", "im2col", "taps"])
    assert [(row["pass"], row["form"]) for row in rows] == list(places)
    assert rows[0]["ms"] > 0
    assert all("error" in row for row in rows if row["form"] != "kernel")
    assert rows[1]["error"].startswith("ValueError: wrong: largest relative error 0.1")


@pytest.mark.slow
def test_a_limit_of_time_leaves_layers_out(capsys):
    printed = run(capsys, "--networks dy_mobile,dy_shuffle --forms kernel --batch 2,4 --image-size 32 --limit 1e-9")
    assert "No time was left to begin." in printed.out


@pytest.mark.parametrize(
    ("form", "convolutions"),
    [("feature", True), ("kernel", False), ("vmapped_conv", True), ("im2col", False), ("feature_conv", True)],
)
def test_a_form_can_be_forced_on_a_network(form, convolutions):
    x, kernels = jnp.ones((2, 5, 5, 4)), jnp.ones((6, 3, 3, 4, 4))
    with network_forms.every_dynamic_conv_by(form):  # the lambda is new to JAX, whose traces are cached by function
        jaxpr = jax.make_jaxpr(lambda *arrays: ops.dynamic_conv(*arrays))(x, kernels, jnp.ones((2, 6, 4)))
    assert ("conv_general_dilated" in str(jaxpr)) == convolutions


def test_a_call_above_the_limit_is_timed_once():
    count = 0

    def call():
        nonlocal count
        count += 1
        return jnp.zeros(())

    measured = timing.time_in_turns({"call": call}, repeats=3, limit=1e-9)["call"]
    assert count == 1
    assert measured.cells(measured) == ("~" + console.three_digits(1000 * measured.seconds), "1.00x")


@pytest.mark.slow
def test_no_call_is_made_after_the_deadline():
    calls = {"call": lambda: 1 / 0}
    assert timing.time_in_turns(calls, repeats=3, limit=1.0, deadline=Deadline(0)) == {}
    slow = timing.time_in_turns({"slow": lambda: time.sleep(0.2)}, repeats=10_000, limit=1.0, deadline=Deadline(1.0))
    assert slow["slow"].seconds >= 0.2


@pytest.mark.slow
def test_step_table_has_a_row_per_form(capsys, monkeypatch):
    def two_blocks(name, **options):
        model = create_model(name, **options)
        return model.clone(stages=model.stages[:1])

    monkeypatch.setattr(training_step, "create_model", two_blocks)
    options = "--batch 2 --image-size 8 --width 0.1 --repeats 1"
    head, *rows = table(run(capsys, f"--step --forms static,kernel {options}").out)
    assert head == ["form", "compile s", "step ms", "ratio"]
    assert [row[0] for row in rows] == ["static", "kernel"]
    assert all(float(number.rstrip("x")) > 0 for row in rows for number in row[1:])


@pytest.mark.parametrize(
    "arguments", [["--forms", "patches"], ["--batch", "0"], ["--networks", "resnet"], ["--dtype", "int8"]]
)
def test_wrong_arguments_get_one_clear_line(arguments, capsys):
    with pytest.raises(SystemExit):
        dynamic_conv.main(arguments)
    assert f"argument {arguments[0]}: " in capsys.readouterr().err
