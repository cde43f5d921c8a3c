"""What JAX computes on: asked here first, so that one line says where it is not what was meant."""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

from dynet_jax.console import warn
from dynet_jax.errors import UserError, one_line, suggest
from dynet_jax.machine import ROOT, cores, cores_of_system

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FAILS = "Unable to initialize backend"  # in JAX's errors
ON_THE_CPU = "set JAX_PLATFORMS=cpu to go on on the CPU"


class Accelerator(NamedTuple):
    """A kind of accelerator: how the system shows it, what JAX drives it with, and what hides it from a process."""

    name: str
    platform: str
    nodes: tuple[str, ...]
    drivers: tuple[str, ...]
    hidden_by: str


ACCELERATORS = (
    Accelerator(
        *("an NVIDIA GPU", "cuda", ("dev/nvidia[0-9]*", "dev/dxg")),
        *(("jax_cuda13_plugin", "jax_cuda12_plugin"), "CUDA_VISIBLE_DEVICES"),
    ),
    Accelerator("an AMD GPU", "rocm", ("dev/kfd",), ("jax_rocm7_plugin", "jax_rocm60_plugin"), "HIP_VISIBLE_DEVICES"),
    Accelerator("a TPU", "tpu", ("dev/accel[0-9]*", "dev/vfio/[0-9]*"), ("libtpu",), "TPU_VISIBLE_CHIPS"),
)


def devices(*, or_cpu: bool = False) -> list[jax.Device]:
    """All devices that JAX computes on.

    or_cpu: a CPU will do, where an accelerator cannot be had that nobody has named; one line says so.
    Raises UserError where JAX has none of those that were asked for, or takes the CPU beside an accelerator of this
    machine that it has the driver of: another process holds it, most likely. A machine whose JAX is for CPUs alone
    computes on the CPU, and JAX says that there is more.
    """
    try:
        with _threads_for_cores():
            found = jax.devices()
    except (AssertionError, RuntimeError) as error:
        if _asked() or "'cpu'" in str(error):
            raise UserError(_absent(str(error))) from error
        found = jax.devices()  # the CPU: JAX had it before it failed, and fails once
        hidden = any(_hides(kind) for kind in ACCELERATORS if f"'{kind.platform}'" in str(error))
        problem = "" if hidden else f"JAX cannot start ({_reason_in(str(error))}); mend what it names"
    else:
        problem = _not_meant() if found[0].platform == "cpu" else ""
    if problem and (_asked() or not or_cpu):
        raise UserError(f"{problem}, or {ON_THE_CPU}")
    if problem:
        _warn_once(f"{problem}; the CPU is used. JAX_PLATFORMS=cpu says that this is meant")
    return found


def explain(error: AssertionError | RuntimeError) -> None:
    """Raises UserError if it is that JAX does not start, for whoever has asked for devices elsewhere."""
    if FAILS in str(error):
        raise UserError(_absent(str(error))) from error
    if isinstance(error, AssertionError) and not str(error):
        devices(or_cpu=True)


def drivable() -> list[Accelerator]:
    """The accelerators of this machine that JAX has a driver for and that are not hidden from this process."""
    return [
        accelerator
        for accelerator in ACCELERATORS
        if any(next(ROOT.glob(nodes), None) for nodes in accelerator.nodes)
        and any(map(importlib.util.find_spec, accelerator.drivers))
        and not _hides(accelerator)
    ]


def description() -> str:
    """JAX's version and its platform here, as far as that is known before JAX has asked the other hosts; two lines."""
    platforms = _asked() or [accelerator.platform for accelerator in drivable()] or ["cpu"]
    return f"JAX {jax.__version__}\n{platforms[0]}"


def _asked() -> list[str]:
    """The names in JAX_PLATFORMS, in their order; none where JAX may choose."""
    platforms = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]  (JAX makes it where it is imported)
    return [name for name in (platforms or "").split(",") if name]


def _hides(accelerator: Accelerator) -> bool:
    return os.environ.get(accelerator.hidden_by) in ("", "-1")


def _absent(error: str) -> str:
    """Why JAX does not start."""
    asked = _asked()
    if not asked:
        return f"JAX cannot start: {_reason_in(error)}"
    if "gpu" in asked:  # it starts cuda, rocm and oneapi, and fails unless it has them all
        return "JAX_PLATFORMS=gpu is for JAX every kind of GPU at once; name yours, as JAX_PLATFORMS=cuda"
    for name in asked:
        if name not in PLATFORMS and f"'{name}' is not in" in error:
            return f"JAX_PLATFORMS has no {name!r}; {suggest(name.strip().lower(), PLATFORMS)}"
    return f"{_asked_for(asked, _reason_in(error))}, or {ON_THE_CPU}"


def _asked_for(asked: list[str], reason: str = "") -> str:
    """That the accelerator which JAX_PLATFORMS names is not there."""
    name = ",".join(asked)
    return (
        f"JAX_PLATFORMS={name} asks for what JAX cannot use here{f' ({reason})' if reason else ''}; see that the "
        "machine has it, that no other process holds it, and that JAX is installed for it (docs/gpu.md, docs/tpu.md)"
    )


def _reason_in(error: str) -> str:
    """What JAX says, without its own advice."""
    advice = r"\.? (\(set JAX_PLATFORMS|\(you may need to|Available backends are).*"
    return one_line(re.sub(advice, "", error, flags=re.DOTALL), limit=300)


def _not_meant() -> str:
    """Why computing on the CPU is not what was meant; nothing if it may be."""
    if asked := _asked():
        return "" if asked[0] == "cpu" else _asked_for(asked)
    for accelerator in drivable():
        return (
            f"this machine has {accelerator.name}, but JAX cannot use it ({_failure_of(accelerator.platform)}); end "
            "the process that holds it, if there is one"
        )
    return ""


def _failure_of(platform: str) -> str:
    try:
        jax.devices(platform)
    except (AssertionError, RuntimeError) as error:
        return _reason_in(str(error))
    return "it takes the CPU first"


@functools.cache
def _warn_once(line: str) -> None:
    warn(line)


@contextlib.contextmanager
def _threads_for_cores() -> Iterator[None]:
    """XLA starts a thread for every core that the system has for it, in a container with the time of fewer, too.

    Its variable is set for the moment in which it starts alone: processes that this one starts may have other cores.
    """
    number = len(cores())
    if number == len(cores_of_system()) or {"PJRT_NPROC", "NPROC"} & os.environ.keys():
        yield
        return
    os.environ["PJRT_NPROC"] = str(number)
    try:
        yield
    finally:
        del os.environ["PJRT_NPROC"]
