"""A training step of networks on GPUs in every form of dynamic convolution, by the count of XLA's GPU compiler.

    .venv-gpu-compiler/bin/python -m benchmarks.gpu_steps --networks mobilenet_v2,dy_mobile --jsonl steps.jsonl

A row is both steps of the network's recipe in bfloat16, with --batch images and one BatchNorm group on each device.
Forms: 'auto', the rule; 'kernel' and 'feature', the same for every layer; 'vmapped_conv', the convolution that JAX
makes of a vmap over images and kernels; 'pallas', the rule with the kernels of this package (DYNET_JAX_GPU_KERNELS=1).
A static network has the form 'auto' alone. Bytes are not time: nothing says how well a library's kernel does. With
--jsonl=FILE, rows are kept as they come, and those of the same source and compiler are not compiled again. The exit
status is 1 if devices exchange anything but sums.
"""

import argparse
import itertools
import sys

from benchmarks.arguments import make_parser, names, output_file, positive
from benchmarks.network_forms import FORMS, every_dynamic_conv_by
from benchmarks.versions import gpu_versions
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.compiled.roofline import estimate
from dynet_jax.config.load import load_config
from dynet_jax.console import say
from dynet_jax.errors import UserError
from dynet_jax.gpu.cards import CARDS, MOST_DEVICES, Node, parse_node
from dynet_jax.gpu.compiler import compile_for
from dynet_jax.gpu.devices import node_devices
from dynet_jax.measure.records import Records, by_entries
from dynet_jax.models import list_models

key_of = by_entries(("network", "form", "card", "devices", "batch", *gpu_versions()))
HEADER = (
    *("network", "form", "card", "devices", "GB", "GFLOP", "MB of temporaries", "Pallas kernels", "calls of libraries"),
    *("exchanges", "step at best, ms"),
)


def compiled(network: str, form: str, node: Node, batch: int) -> dict:
    """What a row has of both steps."""
    config = load_config(network)
    config.dtype, config.batch_size, config.bn_batch_size = "bfloat16", batch * node.devices, batch
    with every_dynamic_conv_by(form):
        steps = compile_for(config, node)
    training, evaluation = steps.training, steps.evaluation
    return {
        "bytes": training.bytes,
        "flops": training.flops,
        "temporaries": training.temporaries,
        "kernels": training.kernels,
        "calls": training.library_calls,
        "exchanges": training.collectives_by_kind,
        "undue_exchanges": steps.undue_exchanges,
        "step": estimate(training, node).step,
        "evaluation_bytes": evaluation.bytes,
        "evaluation_exchanges": evaluation.collectives_by_kind,
        "seconds_to_compile": training.seconds_to_compile + evaluation.seconds_to_compile,
    }


def table_row(row: dict) -> tuple[str, ...]:
    return (
        *(row["network"], row["form"], row["card"], str(row["devices"])),
        f"{row['bytes'] / 1e9:.2f}",
        f"{row['flops'] / 1e9:.0f}",
        f"{row['temporaries'] / 1e6:.0f}",
        str(row["kernels"]),
        str(sum(number for _, number in row["calls"])),
        exchanges_text(row["exchanges"]),
        f"{1e3 * row['step']:.2f}",
    )


def exchanges_text(exchanges: dict) -> str:
    """Returns what devices exchange, like '17 all-reduce, 30.6 MB'."""
    return ", ".join(f"{number} {kind}, {size / 1e6:.1f} MB" for kind, (number, size) in exchanges.items()) or "none"


def exchanges_sums_alone(row: dict) -> bool:
    return {*row["exchanges"], *row["evaluation_exchanges"]} <= {"all-reduce"}


def rows(options: argparse.Namespace) -> list[dict]:
    records, found = Records(options.jsonl, key=key_of), []
    for devices, card, network, form in itertools.product(
        options.devices, options.cards, options.networks, options.forms
    ):
        if form != "auto" and not network.startswith(("dy_", "condconv")):
            continue
        row = {"network": network, "form": form, "card": card, "devices": devices, "batch": options.batch}
        row |= gpu_versions()
        if records.find(key_of(row)) is None:
            say(f"compiling {network}, {form}, for {devices} {card} (some minutes) ...")
            records.add(**row, **compiled(network, form, parse_node(card, devices), options.batch))
        found.append(records.find(key_of(row)))
    return found


def _devices(text: str) -> list[int]:
    found = [positive(int)(word) for word in text.split(",")]
    if max(found) > MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"a node has up to {MOST_DEVICES} devices, not {text}")
    return found


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("gpu_steps", __doc__)
    add, usual = parser.add_argument, ["mobilenet_v2", "fix_mobile", "dy_mobile"]
    add("--networks", type=names(list_models()), default=usual, metavar="NAME,...", help=f"default: {','.join(usual)}")
    add("--forms", type=names(FORMS), default=["auto"], metavar="NAME,...", help=f"of {', '.join(FORMS)}")
    add("--cards", type=names(CARDS), default=["h100"], metavar="NAME,...", help=f"of {', '.join(CARDS)}")
    add("--devices", type=_devices, default=[1], metavar="N,...", help="of a node (default: 1)")
    add("--batch", type=positive(int), default=64, help="images on each device (default: 64)")
    add("--jsonl", type=output_file, metavar="FILE", help="where rows are kept, and found again")
    options = parser.parse_args(argv)
    try:
        node_devices(parse_node(options.cards[0]))
    except UserError as error:
        parser.error(str(error))
    return options


def main(argv: list[str] | None = None) -> int:
    found = rows(parse_arguments(argv))
    print(Table(HEADER, list(map(table_row, found))).markdown())
    return 0 if all(map(exchanges_sums_alone, found)) else 1


if __name__ == "__main__":
    sys.exit(report_mistakes("gpu_steps", main))
