"""The benchmark runs at a tiny size and prints what it promises."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import dynamic_conv, forms, timing, training_step
from dynet_jax import create_model, ops

CELL = re.compile(r"~?(\d+(?:\.\d+)?) \((\d+(?:\.\d+)?)x\)")


def run(capsys, command):
    dynamic_conv.main(command.split())
    return capsys.readouterr()


def table(text):
    """The cells of a Markdown table, header row first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_table_has_a_row_per_layer_and_pass_and_a_column_per_form(tmp_path, capsys):
    # So small and narrow that few layers are distinct: nearly all of the time goes to compilation.
    file = tmp_path / "table.md"
    options = "--networks dy_resnet18 --batch 2 --image-size 32 --width 0.02 --repeats 1"
    printed = run(capsys, f"{options} --markdown {file}")
    assert printed.out == file.read_text()
    assert printed.out.startswith(f"jax {jax.__version__}, backend cpu")

    head, *rows = table(printed.out)
    assert head[3:] == [f"{form} ms" for form in forms.FORMS]
    layers = dict.fromkeys(dynamic_conv.dynamic_layers("dy_resnet18", 0.02, 32))
    assert [row[:3] for row in rows] == [
        ["dy_resnet18", str(layer), mode] for layer in layers for mode in ("forward", "gradient")
    ]
    assert printed.err.count(f"/{len(layers)}] after") == len(layers)
    for row in rows:
        numbers = [CELL.fullmatch(cell).groups() for cell in row[3:]]
        assert all(float(milliseconds) > 0 and float(ratio) > 0 for milliseconds, ratio in numbers)
        assert numbers[0][1] == "1.00"


def test_layers_are_those_of_the_networks():
    mobile = set(map(str, dynamic_conv.dynamic_layers("dy_mobile", 1.0, 224)))
    assert {"1x1 32->18, 112x112", "3x3 162->162, 14x14, groups 27, stride 2", "1x1 324->324, 7x7"} <= mobile
    assert len(mobile) == 25
    resnet = set(map(str, dynamic_conv.dynamic_layers("dy_resnet18", 1.0, 224)))
    assert {"3x3 64->32, 56x56", "3x3 32->64, 56x56, stride 2", "3x3 256->256, 7x7"} <= resnet
    assert len(resnet) == 8


def test_all_forms_compute_the_same_function():
    layer = dynamic_conv.Layer("", size=5, kernel_size=3, c_in=4, c_out=6, strides=2, groups=2)
    x, kernels, _ = dynamic_conv.layer_inputs(layer, batch=2)
    one_kernel = jnp.zeros((2, 6, 6)).at[:, 0].set(1.0)
    options = {"strides": 2, "feature_group_count": 2}
    expected = forms.xla_conv(x, kernels[0], **options)
    for form in forms.FORMS:
        operands = (x, kernels[0]) if form in forms.STATIC else (x, kernels, one_kernel)
        np.testing.assert_allclose(forms.form_function(form)(*operands, **options), expected, atol=1e-4)


@pytest.mark.parametrize(("form", "convolutions"), [("feature", True), ("kernel", False), ("vmapped_conv", True)])
def test_a_form_can_be_forced_on_a_network(form, convolutions):
    x, kernels = jnp.ones((2, 5, 5, 4)), jnp.ones((6, 3, 3, 4, 4))
    with training_step.every_dynamic_conv_by(form):  # the lambda is new to JAX, whose traces are cached by function
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
    assert measured.cells(measured) == ("~" + timing.three_digits(1000 * measured.seconds), "1.00x")


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


@pytest.mark.parametrize("arguments", [["--forms", "patches"], ["--batch", "0"], ["--networks", "resnet"]])
def test_wrong_arguments_get_one_clear_line(arguments, capsys):
    with pytest.raises(SystemExit):
        dynamic_conv.main(arguments)
    assert f"argument {arguments[0]}: " in capsys.readouterr().err
