"""Every dynamic layer of a network on a TPU, in several forms, as compiler estimates, on a machine without a TPU.

    .venv-tpu/bin/python -m benchmarks.tpu_forms --networks dy_resnet18 --batch 64 --jsonl forms.jsonl

A cell is a forward pass with all gradients: the MB it moves, a lower bound of its time in microseconds (the compiler's
estimate for its own instructions, plus the bundles of Pallas kernels), its GFLOP, and the MB of temporaries it needs.
The bytes and operations of Pallas kernels are those that the kernels declare. "?" is an unknown time; "does not fit"
refers to the device's memory or to a core's VMEM. Layers that several networks share are compiled once. With
--jsonl=FILE, every cell is written there as soon as it is known, and cells from the same versions of jax and libtpu
that are already there are not compiled again.
"""

import argparse
import sys
import time

from benchmarks.arguments import batches, make_parser, names, output_file, topology
from benchmarks.forms import FORMS
from benchmarks.layers import NETWORKS, Layer, layers_of
from benchmarks.tpu_layer import BY_XLA, measured
from benchmarks.versions import tpu_versions
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.console import say
from dynet_jax.errors import UserError
from dynet_jax.measure.records import Records, by_entries
from dynet_jax.tpu.chips import Slice
from dynet_jax.tpu.devices import slice_devices

USUAL_NETWORKS = ["dy_mobile", "dy_shuffle", "dy_resnet18", "dy_resnet50"]
USUAL_FORMS = ["static", "feature", BY_XLA, "auto"]
key_of = by_entries(("layer", "batch", "form", "chip", *tpu_versions()))
CELL = "MB / us / GFLOP / MB temporary"


def cell(row: dict) -> str:
    """Returns a cell of the table, in the form that `CELL` describes."""
    if "error" in row:
        return row["error"].partition(":")[0]
    microseconds = "?" if row["seconds"] is None else f"{1e6 * row['seconds']:.0f}"
    return f"{row['bytes'] / 1e6:.0f} / {microseconds} / {row['flops'] / 1e9:.3g} / {row['temporaries'] / 1e6:.0f}"


def find(layer: Layer, batch: int, form: str, slice: Slice, records: Records) -> dict:
    """Returns the row of a cell, compiled if no such row is stored."""
    row = {"layer": str(layer), "batch": batch, "form": form, "chip": slice.name, **tpu_versions()}
    if records.find(key_of(row)) is None:
        records.add(**row, **measured(form, layer, batch, slice))
    return records.find(key_of(row))


def table(options: argparse.Namespace) -> Table:
    layers, records = layers_of(options.networks, 1.0, 224), Records(options.jsonl, key=key_of)
    rows, start, total = [], time.perf_counter(), len(layers) * len(options.batch)
    for layer, networks in layers.items():
        for batch in options.batch:
            forms = [form for form in options.forms if form == BY_XLA or layer.has(form)]
            found = {form: cell(find(layer, batch, form, options.chip, records)) for form in forms}
            rows.append((", ".join(networks), str(layer), str(batch), *(found.get(form, "") for form in options.forms)))
            left = (time.perf_counter() - start) / len(rows) * (total - len(rows))
            say(f"{len(rows)} of {total}, {left / 60:.0f} minutes left")
    return Table(("network", "layer", "images", *(f"{form}, {CELL}" for form in options.forms)), rows)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("tpu_forms", __doc__)
    add, forms = parser.add_argument, [*FORMS, BY_XLA]
    usual = ",".join(USUAL_NETWORKS)
    add("--networks", type=names(NETWORKS), default=USUAL_NETWORKS, metavar="NAME,...", help=f"default: {usual}")
    usual = f"of {', '.join(forms)}; default: {','.join(USUAL_FORMS)}"
    add("--forms", type=names(forms), default=USUAL_FORMS, metavar="NAME,...", help=usual)
    add("--batch", type=batches, default=[64], help="images, one number or several (default: 64)")
    chip = "a topology of `dynet compile-tpu` whose clock is known (default: v5e:1x1)"
    add("--chip", type=topology, default=topology("v5e:1x1"), help=chip)
    add("--jsonl", type=output_file, metavar="FILE", help="where cells are kept, and found again")
    options = parser.parse_args(argv)
    if options.chip.chip.clock is None:
        parser.error(f"argument --chip: the clock of {options.chip.name} is not published")
    try:
        slice_devices(options.chip)
    except UserError as error:
        parser.error(str(error))
    return options


def main(argv: list[str] | None = None) -> int:
    print(table(parse_arguments(argv)).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("tpu_forms", main))
