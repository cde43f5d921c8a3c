"""Images per second of training and inference, compared with the static twins and with PyTorch in one run.

    python -m benchmarks.throughput --families mobile --batch 64,256 --limit 570 --jsonl throughput.jsonl
    python -m benchmarks.throughput --small

JAX: the training step of the files in configs/ (bfloat16, BatchNorm over 64 images, the sums of the metrics), and the
step of `dynet predict`. PyTorch: the same batch and size, channels last, bfloat16 autocast, torch.compile, label
smoothing, fused SGD with momentum; networks of timm or torchvision, and Dy-mobile's frame around timm's CondConv layers
(condconv_mobile) or plain ones. --forms are those of `benchmarks.network_forms`: 'pallas' is this package's kernels for
GPUs, which DYNET_JAX_GPU_KERNELS=1 makes the default. Images are uint8 on the device in both; no input pipeline, one
device.

Each framework has a process. Both compile one pass of one family at one batch, then alternate: every network in one
process, every network in the other, --rounds times. A rate is the median of the rounds; a ratio is the median of the
rounds' ratios: to the static twin and to the base network in the same framework, and to PyTorch's base network.
A program that fails, ends its process or takes longer than --cell-limit is a row that says so; the others continue. If
the frameworks do not see the same kind of device, nothing is timed. --small only checks that the command works, on any
machine; its numbers are meaningless.
"""

import argparse
import importlib.util
import itertools
import sys

from benchmarks.arguments import batches, make_parser, names, output_file, positive
from benchmarks.console import table_head, table_row, three_digits
from benchmarks.network_forms import FORMS, usual_forms
from benchmarks.throughput_cells import FAMILIES, FRAMEWORKS, PASSES, TORCH_PACKAGES, Cell
from benchmarks.throughput_rounds import Rounds
from dynet_jax.arguments import report_mistakes
from dynet_jax.console import say

SMALL = {"batch": [4], "image_size": 32, "width": 0.1, "rounds": 2, "seconds": 0.05, "compile": "none"}
SMALL["families"] = ["mobile"]  # two minutes on a laptop; the others take the same way
SMALL["dtype"] = "float32"  # CPUs without bfloat16 emulate it, slowly
USUAL = {"batch": [64, 256], "image_size": 224, "width": 1.0, "rounds": 5, "seconds": 1.0, "compile": "default"}
USUAL |= {"families": list(FAMILIES), "dtype": "bfloat16"}
COMPILE = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def table(rows: list[dict]) -> list[str]:
    """Returns lines of Markdown."""
    numbers = ["images/s", "lowest to highest", "of its static twin", "of the base network", "of PyTorch's base"]
    lines = list(table_head("network", "form", "framework", "batch", "pass", numbers=numbers))
    for row in rows:
        words = (row["network"], row["form"], row["framework"], str(row["batch"]), row["pass"])
        if "error" in row:
            lines.append(table_row(*words, row["error"].replace("|", "/"), *[""] * 4))
            continue
        ratios = [row.get(f"of_{name}") for name in ("twin", "base", "pytorch")]
        extremes = f"{three_digits(row['lowest'])} to {three_digits(row['highest'])}"
        cells = [f"{ratio:.2f}" if ratio is not None else "" for ratio in ratios]
        lines.append(table_row(*words, three_digits(row["images_per_s"]), extremes, *cells))
    return lines


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    rounds = Rounds(options)
    try:
        described = rounds.start()
        print("\n".join(described.values()), flush=True)
        for batch, family, which in itertools.product(options.batch, options.families, options.passes):
            subjects = [form for subject in FAMILIES[family] for form in subject.in_forms(options.forms)]
            subjects = [subject for subject in subjects if subject.framework in described]
            rounds.measure([Cell(subject, batch, which) for subject in subjects])
    except ValueError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2
    finally:
        rounds.close()
    rows = rounds.records.rows
    lines = ["", *table(rows)]
    print("\n".join(lines), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines[1:]) + "\n")
    return 1 if not rows or any("error" in row for row in rows) else 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("throughput", __doc__)
    add = parser.add_argument
    add("--families", type=names(FAMILIES), help=f"default: {','.join(FAMILIES)}; mobile with --small")
    add("--frameworks", type=names(FRAMEWORKS), default=list(FRAMEWORKS), help="default: jax,torch")
    add("--passes", type=names(PASSES), default=list(PASSES), help="default: training,inference")
    add("--forms", type=names(FORMS), help=f"of dynamic convolutions in JAX, of {', '.join(FORMS)} (default: auto)")
    add("--batch", type=batches, help="images, one number or several (default: 64,256)")
    add("--image-size", type=positive(int), help="default: 224")
    add("--width", type=positive(float), help="of our networks and of the frame (default: 1.0)")
    add("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16")
    add("--rounds", type=positive(int), help="default: 5")
    add("--seconds", type=positive(float), help="of each network in each round (default: 1)")
    add("--compile", choices=COMPILE, help="torch.compile's mode, or none (default: default)")
    add("--small", action="store_true", help="at a tiny size, to see that it works")
    add("--limit", type=positive(float), default=86400.0, help="seconds for the whole command")
    cell_limit = "seconds to compile one program, or to time it once (default: 300)"
    add("--cell-limit", type=positive(float), default=300.0, help=cell_limit)
    add(
        "--jsonl", type=output_file, metavar="FILE", help="write every rate there as soon as it is known, as JSON lines"
    )
    add("--markdown", type=output_file, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(argv)
    for key, value in (SMALL if options.small else USUAL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    options.forms = options.forms or usual_forms()
    missing = [package for package in TORCH_PACKAGES if importlib.util.find_spec(package) is None]
    if missing and "torch" in options.frameworks:
        say(f"no {' and no '.join(missing)}: PyTorch's rows are left out (`make env-gpu` installs it)")
        options.frameworks = [name for name in options.frameworks if name != "torch"]
        if not options.frameworks:
            parser.error("--frameworks: nothing is left to time")
    return options


if __name__ == "__main__":
    sys.exit(report_mistakes("throughput", main))
