"""Times every form of a dynamic convolution side by side, on the layer shapes of the paper's networks.

The forms, by the names of `--forms`:
  static        one convolution with a kernel shared by all images: `dynet_jax.ops.conv`
  static_xla    the same by `lax.conv_general_dilated`
  vmapped_conv  kernels fused, then `vmap` of `lax.conv_general_dilated` over images and kernels
  feature       `dynamic_conv(fusion="feature")`: one convolution per kernel of the bank, feature maps fused (Eq. 2)
  kernel        `dynamic_conv(fusion="kernel")`: kernels fused, then one convolution per image (Eq. 1)
  auto          `dynamic_conv(fusion="auto")`: the one that `choose_fusion` takes

A cell is the median time of a call in milliseconds and, in brackets, its ratio to the first form. Compilation is
excluded. The forms of a layer take turns (A B C A B C ...), so that a drift of the machine's speed meets all of them.
"~" marks the only run of a form that exceeds --limit; "failed", a form that did not compile or run. The gradient is
that of the sum of squares of the output, in all inputs of the form.

With --step: whole training steps of Dy-mobile instead (SGD with momentum), every dynamic convolution in one form;
`static` is Fix-mobile then, and `static_xla` is left out.
"""

import argparse
import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.forms import FORMS, STATIC, form_function
from benchmarks.timing import Timing, failure, progress, random_array, table_head, table_row, time_in_turns
from benchmarks.training_step import step_table
from dynet_jax import DynamicConv, create_model, list_models

EXAMPLE = """examples:
  python -m benchmarks.dynamic_conv --networks dy_resnet18 --batch 8 --markdown table.md
  python -m benchmarks.dynamic_conv --step --forms static,feature,kernel"""

GROUP_SIZE = 6


# ---- The layers


class Layer(NamedTuple):
    """A convolution of square images."""

    network: str
    size: int
    kernel_size: int
    c_in: int
    c_out: int
    strides: int
    groups: int

    def __str__(self):
        text = f"{self.kernel_size}x{self.kernel_size} {self.c_in}->{self.c_out}, {self.size}x{self.size}"
        text += f", groups {self.groups}" if self.groups > 1 else ""
        return text + (f", stride {self.strides}" if self.strides > 1 else "")


def dynamic_layers(network: str, width: float, image_size: int) -> list[Layer]:
    """The dynamic convolutions of a model, recorded while its shapes are worked out; nothing is computed."""
    layers = []

    def record(next_call, args, kwargs, context):
        conv = context.module
        if isinstance(conv, DynamicConv) and context.method_name == "__call__":
            _, size, _, c_in = args[0].shape
            groups = conv.feature_group_count
            layers.append(Layer(network, size, conv.kernel_size[0], c_in, conv.features, conv.strides, groups))
        return next_call(*args, **kwargs)

    model = create_model(network, width=width)
    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32))
    return layers


# DyNet's own: its peers have coefficients of another shape.
NETWORKS = [name for name in list_models("dy_*") if not name.startswith("dy_cnn")]
USUAL_NETWORKS = ["dy_mobile", "dy_resnet18"]


# ---- The table of layers


def layer_table(forms: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown; two rows per distinct layer: forward and gradient."""
    layers = []
    for network in arguments.networks:
        layers += dict.fromkeys(dynamic_layers(network, arguments.width, arguments.image_size))
    yield from table_head("network", "layer", "pass", numbers=[f"{form} ms" for form in forms])
    start = time.perf_counter()
    for index, layer in enumerate(layers, start=1):
        progress(f"[{index}/{len(layers)}] after {time.perf_counter() - start:.0f} s: {layer.network} {layer}")
        inputs = layer_inputs(layer, arguments.batch)
        for gradient in (False, True):
            timings = time_layer(layer, inputs, gradient, forms, arguments)
            cells = [timings[form].cells(timings[forms[0]]) for form in forms]
            numbers = [f"{milliseconds} ({ratio})" for milliseconds, ratio in cells]
            yield table_row(layer.network, str(layer), "gradient" if gradient else "forward", *numbers)


def time_layer(layer, inputs, gradient: bool, forms: list[str], arguments: argparse.Namespace) -> dict[str, Timing]:
    x, kernels, coefficients = inputs
    calls, failures = {}, {}
    for form in forms:
        operands = (x, kernels[0]) if form in STATIC else (x, kernels, coefficients)
        function = functools.partial(form_function(form), strides=layer.strides, feature_group_count=layer.groups)
        if gradient:
            function = gradient_of(function, len(operands))
        try:
            calls[form] = functools.partial(jax.jit(function).lower(*operands).compile(), *operands)
        except jax.errors.JaxRuntimeError as error:
            failures[form] = failure(form, error)
    return failures | time_in_turns(calls, arguments.repeats, arguments.limit)


def layer_inputs(layer: Layer, batch: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, the bank of kernels and the coefficients."""
    shape = (layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    x = random_array((batch, layer.size, layer.size, layer.c_in))
    return x, random_array((GROUP_SIZE, *shape)), random_array((batch, GROUP_SIZE, layer.c_out))


def gradient_of(function: Callable, operands: int) -> Callable:
    return jax.grad(lambda *arrays: jnp.sum(jnp.square(function(*arrays))), argnums=tuple(range(operands)))


# ---- The command


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    forms = [form for form in arguments.forms if not (arguments.step and form == "static_xla")]
    lines = (step_table if arguments.step else layer_table)(forms, arguments)
    with contextlib.ExitStack() as stack:
        files = [sys.stdout]
        if arguments.markdown:
            files.append(stack.enter_context(arguments.markdown.open("w")))
        for line in itertools.chain(header(arguments), lines):
            for file in files:
                print(line, file=file, flush=True)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dynamic_conv",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", type=names(NETWORKS), default=USUAL_NETWORKS, help=f"default: {','.join(USUAL_NETWORKS)}")
    add("--forms", type=names(FORMS), default=list(FORMS), help=f"default: {','.join(FORMS)}")
    add("--batch", type=positive(int), help="images per call (default: 32; 64 with --step)")
    add("--width", type=positive(float), help="width of the networks (default: 1.0; 0.5 with --step)")
    add("--image-size", type=positive(int), help="height and width of the images (default: 224; 32 with --step)")
    add("--repeats", type=positive(int), default=5, help="measurements behind each median (default: 5)")
    add("--limit", type=positive(float), default=20.0, help="seconds above which a call is not repeated (default: 20)")
    add("--step", action="store_true", help="time training steps of Dy-mobile instead of layers")
    add("--small-input", action="store_true", help="with --step: the stem for small images, stride 8 instead of 32")
    add("--markdown", type=Path, metavar="FILE", help="write the table to this file too, replacing it")
    arguments = parser.parse_args(argv)
    defaults = {"batch": 64, "width": 0.5, "image_size": 32} if arguments.step else {}
    for name, default in ({"batch": 32, "width": 1.0, "image_size": 224} | defaults).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    if arguments.markdown and not arguments.markdown.parent.is_dir():
        parser.error(f"--markdown: there is no directory {arguments.markdown.parent}")
    if arguments.step and arguments.forms == ["static_xla"]:
        parser.error("--forms: static_xla alone leaves nothing to time with --step")
    return arguments


def names(choices) -> Callable[[str], list[str]]:
    def parse(text):
        for name in text.split(","):
            if name not in choices:
                raise argparse.ArgumentTypeError(f"unknown name {name!r}; choose from: {', '.join(choices)}")
        return list(dict.fromkeys(text.split(",")))

    return parse


def positive(number: type) -> Callable[[str], float]:
    def parse(text):
        with contextlib.suppress(ValueError):
            if number(text) > 0:
                return number(text)
        raise argparse.ArgumentTypeError(f"must be a positive {number.__name__}, not {text!r}")

    return parse


def header(arguments: argparse.Namespace) -> Iterator[str]:
    device = jax.devices()[0]
    yield (
        f"jax {jax.__version__}, backend {jax.default_backend()}, device {device.device_kind}, {os.cpu_count()} CPUs; "
        f"batch {arguments.batch}, width {arguments.width}, images {arguments.image_size}x{arguments.image_size}, "
        f"float32, median of {arguments.repeats}"
    )
    yield ""


if __name__ == "__main__":
    main()
