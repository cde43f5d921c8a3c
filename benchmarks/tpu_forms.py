"""Bytes that the forms of one dynamic layer move on a TPU, by its compiler's count, on a machine without one.

    .venv-tpu/bin/python -m benchmarks.tpu_forms --batch 64

A row is a layer, a cell MB forwards / with all gradients. Pallas kernels count their blocks with the padding of tiles.
"""

import argparse

import jax
import jax.numpy as jnp

from dynet_jax.analysis.table import Table
from dynet_jax.ops import conv, dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.compiler import slice_devices

# name: (map, channels in, channels out, kernel, stride, channels per group); Dy-mobile's, and a depthwise one
LAYERS = {
    "grouped 3x3, 18 ch, 112x112": (112, 18, 18, 3, 1, 6),
    "grouped 3x3, 24 ch, 56x56": (56, 24, 24, 3, 1, 6),
    "grouped 3x3, 36 ch, 56x56, stride 2": (56, 36, 36, 3, 2, 6),
    "grouped 3x3, 96 ch, 14x14": (14, 96, 96, 3, 1, 6),
    "grouped 3x3, 162 ch, 7x7": (7, 162, 162, 3, 1, 6),
    "depthwise 3x3, 96 ch, 14x14": (14, 96, 96, 3, 1, 1),
    "pointwise, 18 ch, 112x112": (112, 18, 18, 1, 1, 18),
    "pointwise, 24 ch, 56x56": (56, 24, 24, 1, 1, 24),
    "pointwise, 162 ch, 14x14": (14, 162, 162, 1, 1, 162),
}
GROUP_SIZE = 6


def static(x, kernels, coefficients, **options):
    """The layer with one kernel for all images: what a dynamic one is compared with."""
    return conv(x, kernels[0], **options)


FORMS = {
    "static": static,
    "feature": lambda *arrays, **options: dynamic_conv(*arrays, fusion="feature", **options),
    "auto": dynamic_conv,
}


def moved(form, layer, batch: int, device) -> tuple[float, float]:
    """MB forwards, and forwards and backwards."""
    size, c_in, c_out, kernel, strides, members = layer
    shapes = (batch, size, size, c_in), (GROUP_SIZE, kernel, kernel, members, c_out), (batch, GROUP_SIZE, c_out)
    sharding = jax.sharding.SingleDeviceSharding(device)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]

    def forward(*arrays):
        return form(*arrays, strides=strides, feature_group_count=c_in // members)

    def both(*arrays):
        y, vjp = jax.vjp(forward, *arrays)
        return y, vjp(y)

    with tracing_for("tpu"):
        costs = [jax.jit(program).lower(*arrays).compile().cost_analysis() for program in (forward, both)]
    return tuple(cost["bytes accessed"] / 1e6 for cost in costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--chip", default="v5e:1x1", help="a topology of `dynet compile-tpu`")
    options = parser.parse_args()
    device = slice_devices(parse_topology(options.chip))[0]
    rows = []
    for name, layer in LAYERS.items():
        cells = [moved(form, layer, options.batch, device) for form in FORMS.values()]
        rows.append((name, *(f"{forwards:.0f} / {both:.0f}" for forwards, both in cells)))
        print(*rows[-1], sep=" | ", flush=True)
    print()
    print(Table((f"{options.chip}, {options.batch} images", *FORMS), rows).markdown())


if __name__ == "__main__":
    main()
