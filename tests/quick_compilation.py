"""XLA's flags for tests on the CPU: compiling is most of their time, running what was compiled next to nothing.

XLA's older emitters compile a network in half the time of the fusion emitters. A jaxlib that no longer knew that flag
would abort, so later ones than have been tried go without.
"""

from importlib.metadata import version

TRIED = tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10)
FLAGS = "--xla_backend_optimization_level=0" + (" --xla_cpu_use_fusion_emitters=false" if TRIED else "")


def flags(devices: int) -> str:
    """XLA_FLAGS for a process with so many virtual devices."""
    return f"--xla_force_host_platform_device_count={devices} {FLAGS}"
