"""The real training and evaluation steps, compiled for a slice of TPUs."""

from collections.abc import Callable

import ml_collections

from dynet_jax.compiled.program import CompiledProgram, read_program
from dynet_jax.compiled.steps import Steps, compile_steps_for
from dynet_jax.tpu.chips import Slice
from dynet_jax.tpu.devices import slice_devices
from dynet_jax.tpu.kernels import kernel_cycles


def compile_for(
    config: ml_collections.ConfigDict, slice: Slice, progress: Callable[[str], None] = lambda line: None
) -> Steps:
    """Compiles both steps of a configuration, and calls `progress` as each begins.

    Raises UserError if its batch does not fit the slice's devices or memory.
    """
    devices = slice_devices(slice)

    def read(compiled, kernels, seconds: float) -> CompiledProgram:
        return read_program(compiled, seconds, len(devices), kernel_cycles(compiled.as_text(), kernels, slice))

    return compile_steps_for(config, slice, devices, "tpu", read, progress)
