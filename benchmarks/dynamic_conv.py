"""Times every form of a dynamic convolution side by side, on the layer shapes of the paper's networks.

The forms, by the names of `--forms`:
  static        one convolution with a kernel shared by all images: `dynet_jax.ops.conv`
  static_xla    the same by `lax.conv_general_dilated`
  vmapped_conv  kernels fused, then `vmap` of `lax.conv_general_dilated` over images and kernels
  feature       `dynamic_conv(fusion="feature")`: one convolution per kernel of the bank, feature maps fused (Eq. 2)
  kernel        `dynamic_conv(fusion="kernel")`: kernels fused, then one convolution per image (Eq. 1)
  auto          `dynamic_conv(fusion="auto")`: on TPUs a Pallas kernel if there is one, otherwise by `choose_fusion`
and, for GPUs, only from `benchmarks.forms`:
  im2col          kernels fused, then the views side by side in one product, batched over images and groups
  taps            the same with a batched product per position of the kernel, summed
  block_diagonal  im2col with the groups as one dense kernel, nearly all zeros
  feature_conv    Eq. 2 by one convolution with g_t x C_out output channels

Every form's results are first compared with those of one form in float32: a form that differs is "failed". Another
process times the layers. A form that ends it is "died", with the signal or exit status, and one that takes too long is
"over" so many seconds; the others continue. With --jsonl=FILE, times are stored, and not measured again on the same
device with the same version of jax; a form that is timed later than others of its layer has not alternated with them. A
line with an error is stored, too: delete it to try the form again. Layers that several networks share are timed once.

A cell is the median time of a call in milliseconds and, in brackets, its ratio to the first form. Compilation is
excluded. The forms of a layer alternate (A B C, C B A, ...), so that a drift of the machine's speed affects all of
them. "~" marks the only run of a form that exceeds --once-above; "failed" a form that did not compile or run; "-" one
that is the same as another for that layer. The gradient is that of the sum of squares of the output, in all inputs of
the form. The first line says how long a call of an empty program takes; times close to it do not measure the layer.

With --step it times whole training steps of Dy-mobile instead (SGD with momentum), with every dynamic convolution in
one form; `static` is then Fix-mobile, and `static_xla` is left out.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator

from benchmarks.arguments import batches, make_parser, names, output_file, positive
from benchmarks.forms import FORMS, USUAL_FORMS
from benchmarks.layer_table import heading, layer_table
from benchmarks.layer_timing import describe
from benchmarks.layers import NETWORKS
from benchmarks.training_step import step_table

EXAMPLE = """examples:
  python -m benchmarks.dynamic_conv --networks dy_resnet18 --batch 8 --markdown table.md
  python -m benchmarks.dynamic_conv --networks all --forms all --batch 64,256 --dtype bfloat16 --limit 570
  python -m benchmarks.dynamic_conv --step --forms static,feature,kernel"""

USUAL_NETWORKS = ["dy_mobile", "dy_resnet18"]
DTYPES = ("float32", "bfloat16")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    lines = whole_steps(arguments) if arguments.step else layer_table(arguments.forms, arguments)
    with contextlib.ExitStack() as stack:
        files = [sys.stdout]
        if arguments.markdown:
            files.append(stack.enter_context(arguments.markdown.open("w")))
        for line in lines:
            for file in files:
                print(line, file=file, flush=True)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("dynamic_conv", __doc__, EXAMPLE)
    add = parser.add_argument
    add("--networks", type=names(NETWORKS), default=USUAL_NETWORKS, help=f"or all; default: {','.join(USUAL_NETWORKS)}")
    add("--forms", type=names(FORMS), default=list(USUAL_FORMS), help=f"or all; default: {','.join(USUAL_FORMS)}")
    add("--batch", type=batches, help="images per call, one number or several (default: 32; 64 with --step)")
    add("--dtype", choices=DTYPES, default="float32", help="of the layers' inputs (default: float32)")
    add("--width", type=positive(float), help="width of the networks (default: 1.0; 0.5 with --step)")
    add("--image-size", type=positive(int), help="height and width of the images (default: 224; 32 with --step)")
    add("--repeats", type=positive(int), default=5, help="measurements behind each median (default: 5)")
    add("--once-above", type=positive(float), default=20.0, help="seconds above which a call is not repeated (20)")
    add("--limit", type=positive(float), default=86400.0, help="seconds after which nothing further is timed")
    case_limit = "seconds that one form of a layer may take, compiling included (default: 300)"
    add("--case-limit", type=positive(float), default=300.0, help=case_limit)
    add("--step", action="store_true", help="time training steps of Dy-mobile instead of layers")
    add("--small-input", action="store_true", help="with --step: the stem for small images, stride 8 instead of 32")
    add("--markdown", type=output_file, metavar="FILE", help="write the table to this file too, replacing it")
    add(
        "--jsonl",
        type=output_file,
        metavar="FILE",
        help="keep every time there, and find it again",
    )
    arguments = parser.parse_args(argv)
    defaults = {"batch": [64], "width": 0.5, "image_size": 32} if arguments.step else {}
    for name, default in ({"batch": [32], "width": 1.0, "image_size": 224} | defaults).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    if arguments.step and (len(arguments.batch) > 1 or arguments.dtype != "float32"):
        parser.error("--step takes one --batch, and float32")
    if arguments.step and arguments.forms == ["static_xla"]:
        parser.error("--forms: static_xla alone leaves nothing to time with --step")
    return arguments


def whole_steps(arguments: argparse.Namespace) -> Iterator[str]:
    """Returns lines of Markdown."""
    forms = [form for form in arguments.forms if form != "static_xla"]
    return itertools.chain([heading(describe(), arguments), ""], step_table(forms, arguments))


if __name__ == "__main__":
    main()
