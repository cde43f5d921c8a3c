"""Every dynamic layer of a network on a TPU, in several forms, by the count of its compiler, on a machine without one.

    .venv-tpu/bin/python -m benchmarks.tpu_forms --networks dy_resnet18 --batch 64

A cell is what a forward pass with all gradients moves, in MB, and how long it takes at best, in microseconds: the
compiler's estimate for its own instructions, and the bundles of Pallas kernels.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.forms import FORMS, form_function
from benchmarks.layers import GROUP_SIZE, Layer, dynamic_layers
from dynet_jax.analysis.table import Table
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.pallas.call import recording
from dynet_jax.tpu.chips import Slice, parse_topology
from dynet_jax.tpu.compiler import slice_devices
from dynet_jax.tpu.kernels import kernel_cycles
from dynet_jax.tpu.program import Program, read_program

USUAL_FORMS = ("static", "feature", "kernel_by_xla", "auto")


def facts(form: str, layer: Layer, batch: int, slice: Slice) -> Program:
    """A forward pass and all gradients of a layer in bfloat16."""
    kernel_shape = (layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    shapes = [(batch, layer.size, layer.size, layer.c_in), kernel_shape]
    if form != "static":
        shapes[1:] = [(GROUP_SIZE, *kernel_shape), (batch, GROUP_SIZE, layer.c_out)]
    sharding = jax.sharding.SingleDeviceSharding(slice_devices(slice)[0])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]
    by_xla = form == "kernel_by_xla"
    function = form_function("kernel" if by_xla else form)

    def both(*arrays):
        options = dict(strides=layer.strides, feature_group_count=layer.groups)
        y, vjp = jax.vjp(lambda *a: function(*a, **options), *arrays)
        return y, vjp(y)

    with tracing_for("tpu"), mock.patch.dict(os.environ, {"DYNET_JAX_PALLAS": "0"} if by_xla else {}):
        with recording() as kernels:
            compiled = jax.jit(both).lower(*arrays).compile()
        return read_program(compiled, kernel_cycles=kernel_cycles(compiled.as_text(), kernels, slice))


def cell(form: str, layer: Layer, batch: int, slice: Slice) -> str:
    if not layer.has(form):
        return ""
    try:
        program = facts(form, layer, batch, slice)
    except jax.errors.JaxRuntimeError as error:
        return "does not fit" if "RESOURCE_EXHAUSTED" in str(error) else "fails"
    if program.kernel_cycles is None:
        return f"{program.bytes / 1e6:.0f} / ?"
    microseconds = (program.cycles + program.kernel_cycles) / slice.device.clock * 1e6
    return f"{program.bytes / 1e6:.0f} / {microseconds:.0f}"


def table_rows(options, slice: Slice) -> Iterator[tuple[str, ...]]:
    networks = options.networks.split(",")
    layers = list(dict.fromkeys(layer for network in networks for layer in dynamic_layers(network, 1.0, 224)))
    start = time.perf_counter()
    for number, layer in enumerate(layers):
        row = tuple(cell(form, layer, options.batch, slice) for form in options.forms.split(","))
        left = (time.perf_counter() - start) / (number + 1) * (len(layers) - number - 1)
        print(f"{number + 1} of {len(layers)}, {left / 60:.0f} minutes left", file=sys.stderr, flush=True)
        yield (layer.network, str(layer), *row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="dy_mobile,dy_shuffle,dy_resnet18,dy_resnet50", metavar="NAME,...")
    parser.add_argument(
        "--forms", default=",".join(USUAL_FORMS), metavar="NAME,...", help=f"of {', '.join(FORMS)}, too"
    )
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--chip", default="v5e:1x1", help="a topology of `dynet compile-tpu` whose clock is known")
    options = parser.parse_args()
    unknown = set(options.forms.split(",")) - {*FORMS, *USUAL_FORMS}
    slice = parse_topology(options.chip)
    if unknown or slice.device.clock is None:
        parser.error(f"unknown form {min(unknown)}" if unknown else f"the clock of {options.chip} is not published")
    rows = []
    for row in table_rows(options, slice):
        rows.append(row)
        print(*row, sep=" | ", flush=True)
    print()
    header = ("network", f"layer, {options.batch} images, MB / us", *options.forms.split(","))
    print(Table(header, rows).markdown())


if __name__ == "__main__":
    main()
