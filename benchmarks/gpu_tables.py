"""The page of what XLA's GPU compiler counts, from the files that `gpu_steps` and `gpu_forms` keep.

    .venv-gpu-compiler/bin/python -m benchmarks.gpu_steps --networks dy_mobile --forms all --cards a100,h100 \
      --jsonl docs/measured/gpu/steps.jsonl
    .venv-gpu-compiler/bin/python -m benchmarks.gpu_forms --networks dy_mobile --forms kernel,feature \
      --jsonl docs/measured/gpu/layers.jsonl
    python -m benchmarks.gpu_tables --out docs/gpu_counts.md

writes the page, or prints it without --out. Of rows for the same program the newest counts, so that a network is
counted again by the first command, after a change of its forms.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.arguments import make_parser, output_file
from benchmarks.gpu_steps import exchanges_sums_alone, exchanges_text
from benchmarks.layers import GROUP_SIZE, Layer
from benchmarks.network_forms import FORMS
from dynet_jax import json_lines
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.errors import UserError
from dynet_jax.gpu.cards import CARDS
from dynet_jax.models.registry import model_info
from dynet_jax.ops import choose_fusion

FOLDER = Path(__file__).parents[1] / "docs/measured/gpu"
NETWORKS = ("dy_mobile", "dy_resnet18", "dy_resnet50", "dy_shuffle")
COUNTED_ON = ("h100", "a100")
STEP_HEADER = (
    *("network", "form", "GB", "of base", "of Fix", "GFLOP", "MB of temporaries", "Pallas kernels"),
    *("calls of libraries", "step at best, ms"),
)
LAYER_HEADER = (
    *("layer", "kernel, MB / GFLOP", "feature, MB / GFLOP", "bytes, kernel / feature", "rule"),
    *(f"roofline of {card.upper()}, kernel / feature" for card in COUNTED_ON),
)
INTRODUCTION = """# Counted for GPUs

Made by `python -m benchmarks.gpu_tables --out docs/gpu_counts.md` from `docs/measured/gpu/`: what XLA's compiler for
NVIDIA's GPUs makes of training steps and of layers, ahead of time ({versions}).
**Nothing here has run on a GPU.** What a count cannot tell:

- Bytes are not time. What is read again from a cache counts as much as what comes from memory.
- cuDNN, cuBLAS and Pallas kernels are counted by their operands and results, each once. A library may read an array
  more often and takes a workspace, and whether it has a fast kernel for a call, or any, is not asked. That concerns
  *vmapped_conv* most, convolutions with as many groups as images times groups.
- XLA chooses between kernels by timing them on the card, and here it could not.
- *step at best* is the longer of computing and memory at the published peaks, and then the exchanges. Nothing waits,
  and nothing overlaps.
"""
STEPS = """## Training steps

Batch {batch} on each device, 224 px, bfloat16, one device. Forms of all dynamic convolutions: *auto*, the rule;
*kernel* and *feature*, the same for every layer; *vmapped_conv*, what `vmap` makes of a convolution; *pallas*, the rule
with this package's kernels for GPUs (`DYNET_JAX_GPU_KERNELS=1`). *of base* and *of Fix* are ratios of bytes to the base
network and to the static network of the same widths.
"""
EXCHANGES = """### Eight devices

The same batch on each device. A step of training or evaluation must exchange nothing but sums.
"""
LAYERS = """## Layers, and the rule of `fusion="auto"`

A forward pass with all gradients of a layer, {batch} images, bfloat16, g_t = {group_size}. The bytes decide, as counted
for H100; a star marks layers where the rule's form moves more than the other. *roofline* is the ratio of the longer of
computing and memory at the published peaks.
"""


def read_rows(file: Path, wanted: tuple[str, ...]) -> list[dict]:
    """Returns the newest row of each program. Raises UserError for a file without rows, or of another kind."""
    rows = {}
    for row in json_lines.read(file)[0]:
        if missing := [key for key in wanted if key not in row]:
            raise UserError(f"{file} has a row without {missing[0]}: it is no file of this benchmark")
        rows[tuple(row[key] for key in wanted)] = row
    if not rows:
        raise UserError(f"{file} has no rows; `python -m benchmarks.gpu_tables --help` says what makes them")
    return list(rows.values())


def read_steps(file: Path) -> list[dict]:
    return read_rows(file, ("network", "form", "card", "devices", "batch"))


def read_layers(file: Path) -> list[dict]:
    rows = read_rows(file, ("layer", "form", "card", "batch", *Layer._fields))
    return [row for row in rows if "error" not in row]


def page(steps: list[dict], layers: list[dict]) -> str:
    text = INTRODUCTION.format(versions=_versions([*steps, *layers]))
    text += "\n" + STEPS.format(batch=_only(steps, "batch"))
    for card in COUNTED_ON:
        of_card = [row for row in steps if row["card"] == card and row["devices"] == 1]
        text += f"\n### {card.upper()}\n\n{_markdown(step_table(of_card))}\n"
        if missing := not_counted(of_card):
            text += f"\nNot counted yet: {'; '.join(missing)}.\n"
    text += f"\n{EXCHANGES}\n{_markdown(exchange_table([row for row in steps if row['devices'] > 1]))}\n"
    text += "\n" + LAYERS.format(batch=_only(layers, "batch"), group_size=GROUP_SIZE)
    return f"{text}\n{layer_table(layers).markdown()}\n"


def _markdown(table: Table) -> str:
    return table.markdown() if table.rows else "None has been counted yet."


def _only(rows: list[dict], key: str):
    [value] = {row[key] for row in rows}
    return value


def _versions(rows: list[dict]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in rows}))

    return f"jax {all_of('jax')}, plugin for CUDA {all_of('jax-cuda12-plugin')}, sources {all_of('source')}"


def programs() -> Iterator[tuple[str, str]]:
    """Yields every network with every form that it has, in the order of the table."""
    for network in NETWORKS:
        info = model_info(network)
        yield from ((static, "auto") for static in (info.base, info.twin) if static is not None)
        yield from ((network, form) for form in FORMS)


def not_counted(rows: list[dict]) -> list[str]:
    """Returns what the table lacks, like 'dy_mobile: kernel, feature'."""
    counted, missing = {(row["network"], row["form"]) for row in rows}, {}
    for network, form in programs():
        if (network, form) not in counted:
            missing.setdefault(network, []).append(form)
    return [f"{network}: {', '.join(forms)}" for network, forms in missing.items()]


def step_table(rows: list[dict]) -> Table:
    """Returns the steps on one device of one card."""
    found = {(row["network"], row["form"]): row for row in rows}
    return Table(STEP_HEADER, [_step(found[key], found) for key in programs() if key in found])


def _step(row: dict, found: dict[tuple[str, str], dict]) -> tuple:
    info = model_info(row["network"])
    others = [found.get((name, "auto")) for name in (info.base, info.twin)]
    return (
        *(row["network"], row["form"], row["bytes"] / 1e9),
        *(None if other is None else row["bytes"] / other["bytes"] for other in others),
        *(round(row["flops"] / 1e9), round(row["temporaries"] / 1e6), row["kernels"]),
        *(sum(number for _, number in row["calls"]), 1e3 * row["step"]),
    )


def exchange_table(rows: list[dict]) -> Table:
    lines = []
    for row in sorted(rows, key=lambda row: (row["card"], row["network"], FORMS.index(row["form"]))):
        where = f"{row['devices']} {row['card'].upper()}"
        both = exchanges_text(row["exchanges"]), exchanges_text(row["evaluation_exchanges"])
        lines.append((row["network"], row["form"], where, *both, "yes" if exchanges_sums_alone(row) else "NO"))
    return Table(("network", "form", "devices", "training", "evaluation", "sums alone"), lines)


def pairs(layers: list[dict], card: str) -> dict[Layer, dict[str, dict]]:
    """Returns {layer: {form: row}} of layers whose two forms have been counted for a card."""
    found: dict[Layer, dict[str, dict]] = {}
    for row in layers:
        if row["card"] == card and row["form"] in ("kernel", "feature"):
            found.setdefault(Layer(*(row[key] for key in Layer._fields)), {})[row["form"]] = row
    return {layer: forms for layer, forms in found.items() if len(forms) == 2}


def rule_of(layer: Layer, batch: int) -> str:
    """Returns the form that `fusion='auto'` takes on a GPU."""
    shape = (GROUP_SIZE, layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    positions = (-(-layer.size // layer.strides)) ** 2
    return choose_fusion(shape, batch=batch, backend="gpu", positions=positions, feature_group_count=layer.groups)


def layer_table(layers: list[dict]) -> Table:
    """Returns every layer that has been counted for the first card, with the rule's form."""
    of_cards = [pairs(layers, card) for card in COUNTED_ON]
    rows = []
    for layer, forms in sorted(of_cards[0].items(), key=lambda item: _order(item[0])):
        ratio = forms["kernel"]["bytes"] / forms["feature"]["bytes"]
        rule = rule_of(layer, forms["kernel"]["batch"])
        mark = "*" if (ratio > 1) == (rule == "kernel") else ""
        rooflines = (_roofline_ratio(found.get(layer), card) for card, found in zip(COUNTED_ON, of_cards))
        counts = (_counts(forms["kernel"]), _counts(forms["feature"]))
        rows.append((str(layer), *counts, ratio, rule + mark, *rooflines))
    return Table(LAYER_HEADER, rows)


def _roofline_ratio(forms: dict[str, dict] | None, card: str) -> float | None:
    if forms is None:
        return None
    peaks = CARDS[card]
    kernel, feature = (
        max(forms[form]["bytes"] / peaks.memory_bandwidth, forms[form]["flops"] / peaks.flops)
        for form in ("kernel", "feature")
    )
    return kernel / feature


def _counts(row: dict) -> str:
    return f"{row['bytes'] / 1e6:.1f} / {row['flops'] / 1e9:.3g}"


def _order(layer: Layer) -> tuple:
    kind = (layer.kernel_size > 1, layer.groups == 1, layer.groups == layer.c_in)
    return (*kind, -layer.size, layer.strides, layer.c_in, layer.c_out)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("gpu_tables", __doc__)
    add = parser.add_argument
    add("--steps", type=Path, default=FOLDER / "steps.jsonl", metavar="FILE", help="of benchmarks.gpu_steps")
    add("--layers", type=Path, default=FOLDER / "layers.jsonl", metavar="FILE", help="of benchmarks.gpu_forms")
    add("--out", type=output_file, metavar="FILE", help="the page; default: it is printed")
    options = parser.parse_args(arguments)
    text = page(read_steps(options.steps), read_layers(options.layers))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("gpu_tables", main))
