"""How training would scale, on paper: every configuration compiled for every slice, without a TPU.

    .venv-tpu/bin/python -m benchmarks.scaling --configs dy_mobile,mobilenet_v2 --topologies v5e:2x4,v5e:16x16

With --jsonl=FILE, every program is written there as soon as it is compiled, and those that are there already are not
compiled again. Arguments like --config.model.remat=true go to every configuration. The exit status is 1 if a program
does not fit, or exchanges anything but sums.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dynet_jax.analysis.table import Table
from dynet_jax.cli.parsing import overrides
from dynet_jax.errors import UserError
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.compiler import TRAIN_EXAMPLES, compile_for
from dynet_jax.tpu.roofline import estimate
from dynet_jax.train.config import load_config, override

DAY = 24 * 60 * 60
HEADER = (
    *("configuration", "slice", "images at once", "memory", "step, ms", "exchanges", "bound by", "images/s"),
    *("per host", "its cores", "days for 300 epochs"),
)


def compiled(config: str, topology: str, changes: list[str]) -> dict:
    """What the table needs of a training step, or why there is none."""
    slice, facts = parse_topology(topology), {"config": config, "topology": topology, "changes": changes}
    configuration = load_config(f"configs/{config}.py")
    override(configuration, changes)
    try:
        steps = compile_for(configuration, slice)
    except UserError as error:
        return {**facts, "error": str(error)}
    training, times = steps.training, estimate(steps.training, slice)
    return {
        **facts,
        "batch_size": steps.batch_size,
        "images_at_once": steps.images_per_device,
        "hosts": steps.hosts,
        "memory": training.memory / slice.device.hbm_bytes,
        "evaluation_memory": steps.evaluation.memory / slice.device.hbm_bytes,
        "bytes": training.bytes,
        "flops": training.flops,
        "exchanges_by_kind": training.collectives_by_kind,
        "evaluation_exchanges_by_kind": steps.evaluation.collectives_by_kind,
        "step": times.step,
        "exchange": times.exchange,
        "kernels": times.kernels,
        "bound": times.bound,
        "seconds_to_compile": training.seconds_to_compile + steps.evaluation.seconds_to_compile,
    }


def table_row(facts: dict, images_per_core: float) -> tuple[str, ...]:
    name = " ".join([facts["config"], *(change.removeprefix("--config.") for change in facts["changes"])])
    if "error" in facts:
        return (name, facts["topology"], facts["error"].partition(";")[0], *[""] * (len(HEADER) - 3))
    rate = facts["batch_size"] / facts["step"]
    per_host = rate / facts["hosts"]
    kinds = ", ".join(f"{n} {kind}, {size / 1e6:.1f} MB" for kind, (n, size) in facts["exchanges_by_kind"].items())
    return (
        name,
        facts["topology"],
        str(facts["images_at_once"]),
        f"{facts['memory']:.0%}",
        f"{1e3 * facts['step']:.3g}",
        f"{facts['exchange'] / facts['step']:.0%}: {kinds}" if kinds else "none",
        facts["bound"],
        f"{rate:,.0f}",
        f"{per_host:,.0f}",
        f"{per_host / images_per_core:.0f}",
        f"{300 * TRAIN_EXAMPLES / rate / DAY:.2g}",
    )


def is_sound(facts: dict) -> bool:
    """Whether it fits, and all that devices exchange are sums: of gradients, statistics and metrics."""
    kinds = {*facts.get("exchanges_by_kind", {}), *facts.get("evaluation_exchanges_by_kind", {})}
    return "error" not in facts and kinds <= {"all-reduce"}


def all_facts(options, changes: list[str]) -> Iterator[dict]:
    known = {}
    if options.jsonl and options.jsonl.exists():
        lines = (json.loads(line) for line in options.jsonl.read_text().splitlines() if line.endswith("}"))
        known = {(facts["config"], facts["topology"], *facts["changes"]): facts for facts in lines}
    for config in options.configs.split(","):
        for topology in options.topologies.split(","):
            key = (config, topology, *changes)
            if key not in known:
                print(f"compiling {config} for {topology} (some minutes) ...", end=" ", file=sys.stderr, flush=True)
                start = time.perf_counter()
                known[key] = compiled(config, topology, changes)
                print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
                if options.jsonl and "error" not in known[key]:
                    with options.jsonl.open("a") as file:
                        file.write(json.dumps(known[key]) + "\n")
            yield known[key]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="dy_mobile,mobilenet_v2", metavar="NAME,...", help="files of configs/")
    parser.add_argument("--topologies", default="v5e:2x4,v5e:8x8,v5e:16x16,v5p:4x8x8", metavar="CHIP:SHAPE,...")
    parser.add_argument("--images-per-core", type=float, default=288, help="that a core of a host decodes in a second")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="where results are kept, and found again")
    options, rest = parser.parse_known_args()
    try:
        changes = overrides(rest)
        found = list(all_facts(options, changes))
    except UserError as error:
        parser.error(str(error))
    print(Table(HEADER, [table_row(facts, options.images_per_core) for facts in found]).markdown())
    return 0 if all(map(is_sound, found)) else 1


if __name__ == "__main__":
    sys.exit(main())
