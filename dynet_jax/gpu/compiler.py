"""The real training and evaluation steps, compiled for a node of GPUs."""

from collections.abc import Callable

import ml_collections

from dynet_jax.compiled.program import CompiledProgram, read_program
from dynet_jax.compiled.steps import Steps, compile_steps_for, does_not_fit
from dynet_jax.errors import UserError
from dynet_jax.gpu.cards import Node
from dynet_jax.gpu.counts import count
from dynet_jax.gpu.devices import node_devices


def compile_for(
    config: ml_collections.ConfigDict, node: Node, progress: Callable[[str], None] = lambda line: None
) -> Steps:
    """Compiles both steps of a configuration, and calls `progress` as each begins.

    Raises UserError if its batch does not fit the node's devices or memory.
    """
    devices = node_devices(node)

    def read(compiled, kernels, seconds: float) -> CompiledProgram:
        program = read_program(compiled, seconds, len(devices), counts=count(compiled, kernels))
        if program.memory > node.memory_bytes:  # the compiler does not ask
            raise UserError(does_not_fit(node, f"it takes {program.memory / 1e9:.1f} GB"))
        return program

    return compile_steps_for(config, node, devices, "gpu", read, progress)
