"""The page of the GPU compiler's counts: its numbers, and the rule of forms beside the counts that are kept."""

from pathlib import Path

import pytest

from benchmarks import gpu_tables
from benchmarks.gpu_tables import FOLDER, pairs, read_layers, read_steps, rule_of
from dynet_jax import json_lines
from dynet_jax.errors import UserError
from dynet_jax.models.registry import model_info

ROOT = Path(__file__).parents[2]
VERSIONS = {"jax": "1", "jax-cuda12-plugin": "2", "source": "a"}
STEP = VERSIONS | {"card": "h100", "devices": 1, "batch": 64, "flops": 5e9, "temporaries": 7e6, "kernels": 0}
STEP |= {"calls": [["cudnn$convForward", 3]], "step": 2e-3, "exchanges": {}, "evaluation_exchanges": {}}


def step(network: str, form: str, gigabytes: float, **others) -> dict:
    return {**STEP, "network": network, "form": form, "bytes": 1e9 * gigabytes, **others}


def test_the_rule_takes_the_form_that_moves_fewer_bytes():
    """But for three dense layers with strides, which the page marks."""
    worse = {}
    for layer, forms in pairs(read_layers(FOLDER / "layers.jsonl"), "h100").items():
        moved = {form: row["bytes"] for form, row in forms.items()}
        chosen = moved.pop(rule_of(layer, forms["kernel"]["batch"]))
        if chosen > min(moved.values()):
            worse[str(layer)] = round(min(moved.values()) / chosen, 2)
    assert worse == {
        "3x3 32->64, 56x56, stride 2": 0.61,
        "3x3 64->64, 56x56, stride 2": 0.90,
        "3x3 64->128, 28x28, stride 2": 0.88,
    }


@pytest.mark.parametrize(
    ("row", "kernel_size", "kind", "form"),
    [
        ("depthwise", 3, "depthwise", "kernel"),
        ("pointwise, at most", 1, "dense", "kernel"),
        ("pointwise, more", 1, "dense", "feature"),
        ("grouped k x k", 3, "grouped", "feature"),
        ("dense k x k", 3, "dense", "feature"),
    ],
)
def test_the_page_says_how_far_the_forms_of_the_rule_are_apart(row, kernel_size, kind, form):
    ratios = []
    for layer, forms in pairs(read_layers(FOLDER / "layers.jsonl"), "h100").items():
        of_kind = "dense" if layer.groups == 1 else "depthwise" if layer.groups == layer.c_in else "grouped"
        if (layer.kernel_size, of_kind, rule_of(layer, forms["kernel"]["batch"])) == (kernel_size, kind, form):
            ratios.append(forms["kernel"]["bytes"] / forms["feature"]["bytes"])
    [line] = [line for line in (ROOT / "docs/gpu.md").read_text().splitlines() if line.startswith(f"| {row}")]
    for part in ([r for r in ratios if r < 1], [r for r in ratios if r >= 1]):
        assert not part or f"{min(part):.2f} to {max(part):.2f} times" in line


def test_kept_layers_are_of_all_kinds():
    layers = pairs(read_layers(FOLDER / "layers.jsonl"), "h100")
    kinds = {(layer.kernel_size, layer.groups == 1, layer.groups == layer.c_in) for layer in layers}
    assert kinds == {(1, True, False), (3, True, False), (3, False, False), (3, False, True)}
    assert {rule_of(layer, 64) for layer in layers if layer.kernel_size == 1} == {"kernel", "feature"}


def rows_of_one(card: str) -> tuple[list[dict], dict]:
    """Returns the kept steps of one device, and the bytes of each network and form."""
    rows = [row for row in read_steps(FOLDER / "steps.jsonl") if row["card"] == card and row["devices"] == 1]
    return rows, {(row["network"], row["form"]): row["bytes"] for row in rows}


@pytest.mark.parametrize("card", gpu_tables.COUNTED_ON)
def test_in_whole_networks_the_rule_moves_the_fewest_bytes_of_its_forms(card):
    rows, moved = rows_of_one(card)
    assert gpu_tables.not_counted(rows) == []
    for network in gpu_tables.NETWORKS:
        assert moved[network, "auto"] <= min(moved[network, "kernel"], moved[network, "feature"])
        assert moved[network, "pallas"] < moved[network, "auto"]


def test_the_guide_has_the_bytes_of_whole_networks():
    _, moved = rows_of_one("h100")
    text = (ROOT / "docs/gpu.md").read_text()
    for network in gpu_tables.NETWORKS:
        info = model_info(network)
        cells = [moved[network, form] for form in ("auto", "kernel", "feature", "vmapped_conv", "pallas")]
        cells += [moved[info.twin, "auto"], moved[info.base, "auto"]]
        assert f"| {info.title} | {' | '.join(f'{cell / 1e9:.2f}' for cell in cells)} |" in text


def test_kept_steps_exchange_sums_alone():
    several = [row for row in read_steps(FOLDER / "steps.jsonl") if row["devices"] > 1]
    assert several
    for row in several:
        assert row["exchanges"].keys() == {"all-reduce"}
        assert row["evaluation_exchanges"].keys() <= {"all-reduce"}


def test_the_page_is_that_of_the_kept_counts():
    text = gpu_tables.page(read_steps(FOLDER / "steps.jsonl"), read_layers(FOLDER / "layers.jsonl"))
    again = "python -m benchmarks.gpu_tables --out docs/gpu_counts.md"
    assert (ROOT / "docs/gpu_counts.md").read_text() == text, f"run {again}"


def test_ratios_are_to_the_static_networks_on_the_same_card():
    rows = [step("mobilenet_v2", "auto", 10), step("dy_mobile", "pallas", 4), step("fix_mobile", "auto", 5)]
    lines = gpu_tables.step_table(rows).rows
    assert [line[:5] for line in lines] == [
        ("mobilenet_v2", "auto", 10, None, None),
        ("fix_mobile", "auto", 5, 0.5, None),
        ("dy_mobile", "pallas", 4, 0.4, 0.8),
    ]
    assert lines[0][5:] == (5, 7, 0, 3, 2)
    missing = gpu_tables.not_counted(rows)
    assert missing[0] == "dy_mobile: auto, kernel, feature, vmapped_conv"
    assert "shufflenet_v2: auto" in missing


def test_other_exchanges_than_sums_are_told():
    sums = {"exchanges": {"all-reduce": [1, 3_000_000]}, "evaluation_exchanges": {"all-reduce": [1, 24]}}
    rows = [step("dy_mobile", "auto", 4, devices=8, **sums)]
    rows.append({**rows[0], "form": "pallas", "evaluation_exchanges": {"all-gather": [1, 24]}})
    assert gpu_tables.exchange_table(rows).rows == [
        ("dy_mobile", "auto", "8 H100", "1 all-reduce, 3.0 MB", "1 all-reduce, 0.0 MB", "yes"),
        ("dy_mobile", "pallas", "8 H100", "1 all-reduce, 3.0 MB", "1 all-gather, 0.0 MB", "NO"),
    ]


def test_the_newest_count_of_a_program_is_shown(tmp_path):
    file = tmp_path / "steps.jsonl"
    json_lines.append(file, step("resnet18", "auto", 3), step("resnet18", "auto", 2, source="b"))
    assert [row["bytes"] for row in read_steps(file)] == [2e9]


def test_other_files_are_refused(tmp_path, capsys):
    file = tmp_path / "other.jsonl"
    with pytest.raises(UserError, match=r"other.jsonl has no rows; .*gpu_tables --help"):
        read_steps(file)
    json_lines.append(file, {"loss": 1})
    with pytest.raises(UserError, match="has a row without layer: it is no file of this benchmark"):
        read_layers(file)
