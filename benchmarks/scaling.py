"""Estimates of how training would scale: every configuration compiled for every slice, without a TPU.

    .venv-tpu/bin/python -m benchmarks.scaling --configs dy_mobile,mobilenet_v2 --topologies v5e:2x4,v5e:16x16

With --jsonl=FILE, every program is written there as soon as it is compiled, and programs from the same source and
versions of jax and libtpu that are already there are not compiled again. Arguments like --config.model.remat=true apply
to every configuration. A "?" marks a time that leaves out Pallas kernels, because their duration is unknown. The exit
status is 1 if a program does not fit, or exchanges anything but sums.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from benchmarks.arguments import make_parser, output_file, positive, topologies
from benchmarks.versions import tpu_versions
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import overrides, report_mistakes
from dynet_jax.compiled.roofline import estimate
from dynet_jax.compiled.steps import TRAIN_EXAMPLES
from dynet_jax.config.load import check_config, load_config, override
from dynet_jax.config.named import config_of_network
from dynet_jax.console import say
from dynet_jax.errors import UserError, suggest
from dynet_jax.measure.records import Records
from dynet_jax.models import list_models
from dynet_jax.tpu.chips import Slice, parse_topology
from dynet_jax.tpu.compiler import compile_for
from dynet_jax.tpu.devices import slice_devices

USUAL_TOPOLOGIES = "v5e:2x4,v5e:8x8,v5e:16x16,v5p:4x8x8"
DAY = 24 * 60 * 60
METRICS_BYTES = 256  # of metrics and votes in a step; the smallest layer's activations are a thousand times as many
HEADER = (
    *("configuration", "slice", "images at once", "memory", "step, ms", "exchanges", "bound by", "images/s"),
    *("per host", "its cores", "days for 300 epochs"),
)
UNKNOWN = "?: how long its Pallas kernels take is not known; what is marked leaves them out."


def key_of(facts: dict) -> tuple:
    """Returns the key of a stored program, which includes the compiler."""
    return (facts["config"], facts["topology"], *facts["changes"], *(facts.get(name) for name in tpu_versions()))


def compiled(config: str, topology: str, changes: list[str]) -> dict:
    """Returns the facts of a training step for the table, or why there are none."""
    slice = parse_topology(topology)
    facts = {"config": config, "topology": topology, "changes": changes, **tpu_versions()}
    try:
        steps = compile_for(configuration(config, changes), slice)
    except UserError as error:
        return {**facts, "error": str(error)}
    training, times = steps.training, estimate(steps.training, slice)
    return {
        **facts,
        "batch_size": steps.batch_size,
        "images_at_once": steps.images_per_device,
        "hosts": steps.hosts,
        "memory": training.memory / slice.chip.hbm_bytes,
        "evaluation_memory": steps.evaluation.memory / slice.chip.hbm_bytes,
        "bytes": training.bytes,
        "flops": training.flops,
        "exchanges_by_kind": training.collectives_by_kind,
        "evaluation_exchanges_by_kind": steps.evaluation.collectives_by_kind,
        "undue_exchanges": steps.undue_exchanges,
        "step": times.step,
        "exchange": times.exchange,
        "kernels": times.kernels,
        "bound": times.bound,
        "seconds_to_compile": training.seconds_to_compile + steps.evaluation.seconds_to_compile,
    }


def configuration(name: str, changes: list[str]):
    config = load_config(name)
    override(config, changes)
    return config


def table_row(facts: dict, images_per_core: float) -> tuple[str, ...]:
    name = " ".join([facts["config"], *(change.removeprefix("--config.") for change in facts["changes"])])
    if "error" in facts:
        return (name, facts["topology"], facts["error"].partition(";")[0], *[""] * (len(HEADER) - 3))
    rate = facts["batch_size"] / facts["step"]
    per_host, mark = rate / facts["hosts"], "?" if leaves_out_kernels(facts) else ""
    kinds = ", ".join(f"{n} {kind}, {size / 1e6:.1f} MB" for kind, (n, size) in facts["exchanges_by_kind"].items())
    return (
        name,
        facts["topology"],
        str(facts["images_at_once"]),
        f"{facts['memory']:.0%}",
        f"{1e3 * facts['step']:.3g}{mark}",
        f"{facts['exchange'] / facts['step']:.0%}{mark}: {kinds}" if kinds else "none",
        f"{facts['bound']}{mark}",
        f"{rate:,.0f}{mark}",
        f"{per_host:,.0f}{mark}",
        f"{per_host / images_per_core:.0f}{mark}",
        f"{300 * TRAIN_EXAMPLES / rate / DAY:.2g}{mark}",
    )


def leaves_out_kernels(facts: dict) -> bool:
    return "error" not in facts and facts["kernels"] is None


def is_sound(facts: dict) -> bool:
    """Returns whether it fits, and devices only exchange sums: of gradients, statistics, metrics and votes."""
    kinds = {*facts.get("exchanges_by_kind", {}), *facts.get("evaluation_exchanges_by_kind", {})}
    return "error" not in facts and kinds <= {"all-reduce"} and facts["undue_exchanges"] <= METRICS_BYTES


def all_facts(options: argparse.Namespace, changes: list[str]) -> Iterator[dict]:
    """Yields the facts of every configuration on every slice, stored or compiled.

    Raises UserError before anything is compiled.
    """
    known = Records(options.jsonl, key=key_of)
    wanted = [(config, slice) for config in options.configs for slice in options.topologies]
    versions = tpu_versions().values()
    keys = [(config, slice.name, *changes, *versions) for config, slice in wanted]
    _check([case for case, key in zip(wanted, keys) if known.find(key) is None], changes)
    for (config, slice), key in zip(wanted, keys):
        if known.find(key) is None:
            say(f"compiling {config} for {slice.name} (some minutes) ...")
            start = time.perf_counter()
            facts = compiled(config, slice.name, changes)
            say(f"{config} for {slice.name}: {time.perf_counter() - start:.0f} s")
            if "error" in facts:  # not kept: it may fit after a change of this project
                yield facts
                continue
            known.add(**facts)
        yield known.find(key)


def _check(cases: list[tuple[str, Slice]], changes: list[str]) -> None:
    """Raises UserError for an invalid configuration or slice, before the others are compiled."""
    for config in dict.fromkeys(config for config, _ in cases):
        check_config(configuration(config, changes))
    for slice in dict.fromkeys(slice for _, slice in cases):
        slice_devices(slice)


def _configs(text: str) -> list[str]:
    """Returns the names in 'a,b' or 'all', each once."""
    found = list_models() if text == "all" else list(dict.fromkeys(text.split(",")))
    for name in found:
        if config_of_network(name) is None:
            raise argparse.ArgumentTypeError(f"unknown name {name!r}; {suggest(name, list_models())}")
    return found


def parse_arguments(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    parser = make_parser("scaling", __doc__)
    parser.add_argument(
        "--configs",
        type=_configs,
        default=["dy_mobile", "mobilenet_v2"],
        metavar="NAME,...",
        help="networks, by their recipes",
    )
    slices = topologies(USUAL_TOPOLOGIES)
    parser.add_argument(
        "--topologies", type=topologies, default=slices, metavar="CHIP:SHAPE,...", help=f"default: {USUAL_TOPOLOGIES}"
    )
    per_core = "that a core of a host decodes in a second"
    parser.add_argument("--images-per-core", type=positive(float), default=288, help=per_core)
    parser.add_argument("--jsonl", type=output_file, metavar="FILE", help="where results are kept, and found again")
    return parser, *parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> int:
    parser, options, rest = parse_arguments(argv)
    try:
        changes = overrides(rest)
        found = list(all_facts(options, changes))
    except UserError as error:
        parser.error(str(error))
    print(Table(HEADER, [table_row(facts, options.images_per_core) for facts in found]).markdown())
    if any(map(leaves_out_kernels, found)):
        print(f"\n{UNKNOWN}")
    return 0 if all(map(is_sound, found)) else 1


if __name__ == "__main__":
    sys.exit(report_mistakes("scaling", main))
