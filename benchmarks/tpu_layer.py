"""One layer in one form, compiled for a TPU, with the compiler's estimates."""

import contextlib
import os
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.forms import STATIC, form_function
from benchmarks.layers import GROUP_SIZE, Layer
from dynet_jax.compiled.program import CompiledProgram, read_program
from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.measure.failures import what_failed
from dynet_jax.ops.backend import tracing_for
from dynet_jax.tpu.chips import Slice
from dynet_jax.tpu.devices import slice_devices
from dynet_jax.tpu.kernels import kernel_cycles

BY_XLA = "kernel_by_xla"  # `kernel` with DYNET_JAX_PALLAS=0


def measured(form: str, layer: Layer, batch: int, slice: Slice) -> dict:
    """Returns a row's numbers, or its error; one layer that does not compile must not end the others."""
    try:
        program = compiled(form, layer, batch, slice)
    except Exception as error:
        return {"error": why_not(error)}
    known = program.kernel_cycles is not None
    return {
        "bytes": program.bytes,
        "flops": program.flops,
        "temporaries": program.temporaries,
        "kernels": program.kernels,
        "seconds": (program.cycles + program.kernel_cycles) / slice.chip.clock if known else None,
    }


def why_not(error: Exception) -> str:
    """Returns the text of a cell up to the colon, and the compiler's words."""
    text = what_failed(error)
    if "RESOURCE_EXHAUSTED" not in str(error):
        return f"fails: {text}"
    return f"does not fit the fast memory: {text}" if "vmem" in str(error).lower() else f"does not fit: {text}"


def compiled(form: str, layer: Layer, batch: int, slice: Slice) -> CompiledProgram:
    """Returns a compiled forward pass with all gradients of a layer in bfloat16."""
    device = slice_devices(slice)[0]
    arrays = _shapes(form, layer, batch, jax.sharding.SingleDeviceSharding(device))
    function = form_function("kernel" if form == BY_XLA else form)

    def both(*arrays):
        options = dict(strides=layer.strides, feature_group_count=layer.groups)
        y, vjp = jax.vjp(lambda *a: function(*a, **options), *arrays)
        return y, vjp(y)

    # By its kind, too: the kernels are not for all TPUs.
    with tracing_for("tpu", device.device_kind), _pallas(form != BY_XLA), traced_kernels() as kernels:
        program = jax.jit(both).lower(*arrays).compile()
    return read_program(program, kernel_cycles=kernel_cycles(program.as_text(), kernels, slice))


def _shapes(form, layer, batch, sharding):
    kernel = (layer.kernel_size, layer.kernel_size, layer.c_in // layer.groups, layer.c_out)
    shapes = [(batch, layer.size, layer.size, layer.c_in), kernel]
    if form not in STATIC:
        shapes[1:] = [(GROUP_SIZE, *kernel), (batch, GROUP_SIZE, layer.c_out)]
    return [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]


def _pallas(wanted: bool) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if wanted else mock.patch.dict(os.environ, {"DYNET_JAX_PALLAS": "0"})
