"""Every form and every network on this machine's accelerator against a CPU's float32.

    python -m benchmarks.correctness --limit 540 --jsonl correctness.jsonl

Forms: output and all gradients of a dense, grouped, depthwise and pointwise layer with strides 1 and 2. The reference
is XLA's own convolution, image by image, on the CPU, with the same (rounded) inputs. Networks: logits of a training
step and the gradients of all parameters, at small width and size. The accelerator multiplies float32 at the highest
precision; with DYNET_JAX_GPU_KERNELS=1 at the default, as those kernels do, with wider tolerances.

An error of a form is the largest of any entry relative to the largest entry of its array. An error of a network is the
length of the difference relative to the array's, for the logits and for all gradients together. In bfloat16, where
rounding grows through a random network, the tolerance is twice the difference of the CPU's bfloat16 from its float32.
The exit status is 1 if any error exceeds its tolerance or a case failed, and 3 if the time limit left cases out.

On a machine without an accelerator, CPU programs are compared with CPU programs: it shows that the command works.
"""

import argparse
import itertools
import math
import sys

import jax

from benchmarks.arguments import make_parser, names, output_file, positive
from benchmarks.compiling import JOBS
from benchmarks.correctness_cases import FormCase, NetworkCase, check_together, form_cases, network_cases
from benchmarks.forms import FORMS
from dynet_jax import list_models
from dynet_jax.analysis.table import Table
from dynet_jax.console import say
from dynet_jax.measure.failures import Deadline
from dynet_jax.measure.records import Records


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    device, cpu = jax.devices()[0], cpu_device()
    kind = "a CPU, against itself: no accelerator" if device.platform == "cpu" else device.device_kind
    print(f"jax {jax.__version__}, {kind}\n", flush=True)
    deadline, records = Deadline(options.limit), Records(options.jsonl)
    groups = every_case(options)
    total = sum(map(len, groups))
    for group in groups:
        if deadline.passed:
            break
        say(f"[{len(records.rows)}/{total}] after {options.limit - deadline.left:.0f} s")
        for row in check_together(group, device, cpu, options.jobs):
            records.add(**row)
    if records.rows:
        print(summary(records.rows).markdown())
    bad = [row for row in records.rows if not row["passed"]]
    left_out = total - len(records.rows)
    print(f"\n{len(records.rows) - len(bad)} of {len(records.rows)} cases passed; {left_out} left out for want of time")
    return 1 if bad else 3 if left_out else 0


def cpu_device() -> jax.Device:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        sys.exit("correctness: JAX_PLATFORMS leaves the CPU out; unset it, or add ',cpu'")


def every_case(options: argparse.Namespace) -> list[list[FormCase] | list[NetworkCase]]:
    """Yields groups of cases to be compiled together. Forms come first: they are quick, and can explain a failed
    network.
    """
    forms = [] if options.only == "networks" else form_cases(options.size, options.forms)
    networks = [] if options.only == "forms" else network_cases(options.networks, options.width)
    groups = [list(layer) for _, layer in itertools.groupby(forms, key=str)]
    return groups + [networks[start : start + 8] for start in range(0, len(networks), 8)]


def summary(rows: list[dict]) -> Table:
    """Returns a line per subject and type, with its largest errors and their places."""
    lines = {}
    for row in rows:
        lines.setdefault((row["subject"], row["dtype"]), []).append(row)
    table = []
    for (subject, dtype), group in lines.items():
        worst = max(group, key=lambda row: math.inf if row["error"] is None else row["error"] / row["tolerance"])
        error = "failed" if worst["error"] is None else f"{worst['error']:.1e}"
        passed = "yes" if all(row["passed"] for row in group) else "NO"
        table.append((subject, dtype, str(len(group)), error, f"{worst['tolerance']:.0e}", worst["case"], passed))
    return Table(("subject", "type", "cases", "largest error", "tolerance", "where", "passed"), table)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("correctness", __doc__)
    cpus = f"programs compiled at once (default: {JOBS})"
    limit = "seconds after which no further case is begun"
    parser.add_argument("--only", choices=("forms", "networks"))
    forms = f"of {', '.join(FORMS)}; default: all. 'auto' is a kernel for GPUs with DYNET_JAX_GPU_KERNELS=1"
    parser.add_argument("--forms", type=names(FORMS), default=list(FORMS), metavar="NAME,...", help=forms)
    parser.add_argument("--networks", default="*", help="a pattern like 'dy_*'; default: all")
    parser.add_argument(
        "--width", type=positive(float), default=0.25, help="of the networks (Dy-shuffle and its like: 0.5)"
    )
    parser.add_argument("--size", type=positive(int), default=15, help="height and width of the forms' images")
    parser.add_argument("--jobs", type=positive(int), default=JOBS, help=cpus)
    parser.add_argument("--limit", type=positive(float), default=3600.0, help=limit)
    parser.add_argument(
        "--jsonl", type=output_file, metavar="FILE", help="write every case there as soon as it is known"
    )
    options = parser.parse_args(argv)
    if not list_models(options.networks):
        parser.error(f"argument --networks: no network matches {options.networks!r}")
    return options


if __name__ == "__main__":
    sys.exit(main())
