"""Every dynamic layer of a network on a GPU, in several forms, by the count of XLA's GPU compiler, without a GPU.

    .venv-gpu-compiler/bin/python -m benchmarks.gpu_forms --networks dy_mobile --batch 64 --jsonl forms.jsonl

A cell is a forward pass with all gradients in bfloat16: the MB it moves, its GFLOP, and the MB of temporaries it needs.
'pallas' is the kernel of this package (DYNET_JAX_GPU_KERNELS=1), where the layer has one. Bytes are not time. With
--jsonl=FILE, every cell is written there as soon as it is known, and those that are there already, from the same source
and compiler, are not compiled again.
"""

import os
import sys
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.arguments import make_parser, names, output_file, positive
from benchmarks.forms import FORMS, STATIC, form_function
from benchmarks.layers import GROUP_SIZE, NETWORKS, Layer, layers_of
from benchmarks.versions import gpu_versions
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.compiled.program import CompiledProgram, read_program
from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.errors import UserError
from dynet_jax.gpu.cards import CARDS, Node, parse_node
from dynet_jax.gpu.counts import count
from dynet_jax.gpu.devices import node_devices
from dynet_jax.measure.failures import what_failed
from dynet_jax.measure.records import Records, by_entries
from dynet_jax.ops.backend import tracing_for

PALLAS = "pallas"
USUAL_FORMS = ["static", "kernel", "feature", "vmapped_conv", PALLAS]
key_of = by_entries(("layer", "batch", "form", "card", *gpu_versions()))


def compiled(form: str, layer: Layer, batch: int, node: Node) -> CompiledProgram:
    """A forward pass and all gradients of a layer in bfloat16."""
    sharding = jax.sharding.SingleDeviceSharding(node_devices(node)[0])
    kernel = (layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    others = [kernel] if form in STATIC else [(GROUP_SIZE, *kernel), (batch, GROUP_SIZE, layer.c_out)]
    shapes = [(batch, layer.size, layer.size, layer.c_in), *others]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]
    function = form_function("auto" if form == PALLAS else form)

    def both(*arrays):
        options = dict(strides=layer.strides, feature_group_count=layer.groups)
        y, vjp = jax.vjp(lambda *a: function(*a, **options), *arrays)
        return y, vjp(y)

    wanted = {"DYNET_JAX_GPU_KERNELS": "1" if form == PALLAS else "0"}
    with mock.patch.dict(os.environ, wanted), tracing_for("gpu"), traced_kernels() as kernels:
        program = jax.jit(both).lower(*arrays).compile()
    return read_program(program, counts=count(program, kernels))


def measured(form: str, layer: Layer, batch: int, node: Node) -> dict:
    """A row's numbers, or its error: one layer that does not compile must not end the others."""
    try:
        program = compiled(form, layer, batch, node)
    except Exception as error:
        return {"error": f"fails: {what_failed(error)}"}
    found = {"bytes": program.bytes, "flops": program.flops, "temporaries": program.temporaries}
    return found | {"kernels": program.kernels, "calls": program.library_calls}


def cell(row: dict) -> str:
    if "error" in row:
        return row["error"].partition(":")[0]
    if row["form"] == PALLAS and not row["kernels"]:
        return ""
    return f"{row['bytes'] / 1e6:.0f} / {row['flops'] / 1e9:.3g} / {row['temporaries'] / 1e6:.0f}"


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("gpu_forms", __doc__)
    add, forms = parser.add_argument, [*FORMS, PALLAS]
    add("--networks", type=names(NETWORKS), default=["dy_mobile"], metavar="NAME,...", help="default: dy_mobile")
    add("--forms", type=names(forms), default=USUAL_FORMS, metavar="NAME,...", help=f"of {', '.join(forms)}")
    add("--batch", type=positive(int), default=64, help="images (default: 64)")
    add("--card", choices=list(CARDS), default="h100", help="default: h100")
    add("--kernel-size", type=positive(int), help="layers with k x k of this k alone")
    add("--image-size", type=positive(int), default=224, help="height and width of the images (default: 224)")
    add("--jsonl", type=output_file, metavar="FILE", help="where cells are kept, and found again")
    options = parser.parse_args(argv)
    node, records, rows = parse_node(options.card), Records(options.jsonl, key=key_of), []
    try:
        node_devices(node)
    except UserError as error:
        parser.error(str(error))
    for layer, networks in layers_of(options.networks, 1.0, options.image_size).items():
        if options.kernel_size not in (None, layer.kernel_size):
            continue
        found = []
        for form in options.forms:
            row = {"layer": str(layer), "batch": options.batch, "form": form, "card": options.card, **gpu_versions()}
            row |= layer._asdict()
            if form != PALLAS and not layer.has(form):
                found.append("")
                continue
            if records.find(key_of(row)) is None:
                records.add(**row, **measured(form, layer, options.batch, node))
            found.append(cell(records.find(key_of(row))))
        rows.append((", ".join(networks), str(layer), *found))
    header = ("network", "layer", *(f"{form}, MB / GFLOP / MB temporary" for form in options.forms))
    print(Table(header, rows).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("gpu_forms", main))
