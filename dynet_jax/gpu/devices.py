"""GPUs that are not there: programs can be compiled for them by the plugin that JAX has for CUDA."""

import importlib.util

import jax

from dynet_jax.errors import UserError, one_line
from dynet_jax.gpu.cards import Node, target_config

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
COMPILER = ".venv-gpu-compiler/bin/dynet compile-gpu ..."


def has_compiler() -> bool:
    """Returns whether this environment can compile for GPUs."""
    return any(importlib.util.find_spec(plugin) for plugin in PLUGINS)


def node_devices(node: Node) -> list:
    """Returns the node's devices, for which programs can be compiled but not run.

    Raises UserError without the compiler, or where it does not know the card.
    """
    if not has_compiler():
        raise UserError(
            "GPU programs are compiled by JAX's plugin for CUDA, which is not installed; `make env-gpu-compiler` makes "
            f"an environment with it: {COMPILER}"
        )
    # Computing is the CPU's affair here. Without this, JAX would ask the missing driver for its GPUs.
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    topology = f"1x1x{node.devices}"
    try:
        config = target_config(node.card)
        return list(topologies.get_topology_desc(platform="cuda", target_config=config, topology=topology).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"this version of the GPU's compiler has nothing for {node.name}: {one_line(error)}") from error
