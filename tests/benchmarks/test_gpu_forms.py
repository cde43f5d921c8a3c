"""The tables of GPUs: what their cells say, and which form layers take while they are compiled."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_forms, gpu_steps, network_forms
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for

LAYER = {"form": "pallas", "bytes": 332e6, "flops": 7.42e9, "temporaries": 45_300_000, "kernels": 2}
STEP = {
    **{"network": "dy_mobile", "form": "auto", "card": "h100", "devices": 8, "bytes": 1.076e10, "flops": 1.378e11},
    **{"temporaries": 1.4e9, "kernels": 0, "calls": [["cudnn$convForward", 37], ["cublas$gemm", 2]], "step": 0.0033},
    **{"exchanges": {"all-reduce": [17, 30_600_000]}, "evaluation_exchanges": {"all-reduce": [1, 24]}},
}


def test_cells_of_layers():
    assert gpu_forms.cell(LAYER) == "332 / 7.42 / 45"
    assert gpu_forms.cell({**LAYER, "kernels": 0}) == ""  # the layer has no kernel, and the rule took another form
    assert gpu_forms.cell({**LAYER, "form": "feature", "kernels": 0}) == "332 / 7.42 / 45"
    assert gpu_forms.cell({"error": "fails: RuntimeError: no"}) == "fails"


def test_rows_of_steps():
    cells = ("dy_mobile", "auto", "h100", "8", "10.76", "138", "1400", "0", "39", "17 all-reduce, 30.6 MB", "3.30")
    assert gpu_steps.table_row(STEP) == cells
    assert gpu_steps.exchanges_sums_alone(STEP)
    assert not gpu_steps.exchanges_sums_alone({**STEP, "evaluation_exchanges": {"all-gather": [1, 4]}})


@pytest.mark.parametrize(
    ("form", "expected"),
    [("auto", "feature"), ("kernel", "kernel"), ("feature", "feature"), ("pallas", "grouped_conv")],
)
def test_layers_take_the_form_that_is_asked_for(form, expected):
    x, bank, coefficients = jnp.ones((2, 6, 6, 12)), jnp.ones((4, 3, 3, 6, 12)), jnp.ones((2, 4, 12))
    with network_forms.every_dynamic_conv_by(form), tracing_for("gpu"):
        lowered = jax.jit(lambda *a: dynamic_conv(*a, feature_group_count=2)).trace(x, bank, coefficients)
    scopes = str(lowered.jaxpr.pretty_print(source_info=False, name_stack=True))
    assert (expected if form == "pallas" else f"dynamic_conv_{expected}_fusion") in scopes
