"""The hardware that JAX uses. It is determined here, so that one line reports a platform that was not intended."""

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
FAILS = "Unable to initialize backend"  # part of JAX's errors
ON_THE_CPU = "set JAX_PLATFORMS=cpu to continue on the CPU"


class Accelerator(NamedTuple):
    """A kind of accelerator: its device files, JAX's drivers for it, and the variable that hides it from a process."""

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
    """Returns all devices that JAX uses.

    or_cpu: whether a CPU is acceptable if an accelerator that was not requested is unavailable; one line reports it.
    Raises UserError if JAX has no device of the requested platform, or if it uses the CPU although this machine has an
    accelerator and JAX its driver; most likely another process holds it. A JAX installation for CPUs only uses the CPU,
    and JAX itself reports other hardware.
    """
    try:
        with _threads_for_cores():
            found = jax.devices()
    except (AssertionError, RuntimeError) as error:
        if _asked() or "'cpu'" in str(error):
            raise UserError(_absent(str(error))) from error
        found = jax.devices()  # the CPU: JAX initialised it before the failure, and fails only once
        hidden = any(_hides(kind) for kind in ACCELERATORS if f"'{kind.platform}'" in str(error))
        problem = "" if hidden else f"JAX cannot start ({_reason_in(str(error))}); fix what it names"
    else:
        problem = _not_meant() if found[0].platform == "cpu" else ""
    if problem and (_asked() or not or_cpu):
        raise UserError(f"{problem}, or {ON_THE_CPU}")
    if problem:
        _warn_once(f"{problem}; the CPU is used. JAX_PLATFORMS=cpu states that this is intended")
    return found


def explain(error: AssertionError | RuntimeError) -> None:
    """Raises UserError if the error is a failed start of JAX, for code that requested devices elsewhere."""
    if FAILS in str(error):
        raise UserError(_absent(str(error))) from error
    if isinstance(error, AssertionError) and not str(error):
        devices(or_cpu=True)


def drivable() -> list[Accelerator]:
    """Returns the accelerators of this machine that JAX has a driver for and that are not hidden from this process."""
    return [
        accelerator
        for accelerator in ACCELERATORS
        if any(next(ROOT.glob(nodes), None) for nodes in accelerator.nodes)
        and any(map(importlib.util.find_spec, accelerator.drivers))
        and not _hides(accelerator)
    ]


def description() -> str:
    """Returns JAX's version and platform, as far as known before JAX contacts the other hosts, in two lines."""
    platforms = _asked() or [accelerator.platform for accelerator in drivable()] or ["cpu"]
    return f"JAX {jax.__version__}\n{platforms[0]}"


def _asked() -> list[str]:
    """Returns the names in JAX_PLATFORMS, in order; none if JAX may choose."""
    platforms = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]  (JAX defines it on import)
    return [name for name in (platforms or "").split(",") if name]


def _hides(accelerator: Accelerator) -> bool:
    return os.environ.get(accelerator.hidden_by) in ("", "-1")


def _absent(error: str) -> str:
    """Returns the reason why JAX does not start."""
    asked = _asked()
    if not asked:
        return f"JAX cannot start: {_reason_in(error)}"
    if "gpu" in asked:  # JAX starts cuda, rocm and oneapi, and fails unless it has all of them
        return "JAX_PLATFORMS=gpu is for JAX every kind of GPU at once; name yours, as JAX_PLATFORMS=cuda"
    for name in asked:
        if name not in PLATFORMS and f"'{name}' is not in" in error:
            return f"JAX_PLATFORMS has no {name!r}; {suggest(name.strip().lower(), PLATFORMS)}"
    return f"{_asked_for(asked, _reason_in(error))}, or {ON_THE_CPU}"


def _asked_for(asked: list[str], reason: str = "") -> str:
    """Returns the message that the platform in JAX_PLATFORMS is not available."""
    name = ",".join(asked)
    return (
        f"JAX_PLATFORMS={name} asks for what JAX cannot use here{f' ({reason})' if reason else ''}; check that the "
        "machine has it, that no other process holds it, and that JAX is installed for it (docs/gpu.md, docs/tpu.md)"
    )


def _reason_in(error: str) -> str:
    """Returns the reason in JAX's error, without its own advice."""
    advice = r"\.? (\(set JAX_PLATFORMS|\(you may need to|Available backends are).*"
    return one_line(re.sub(advice, "", error, flags=re.DOTALL), limit=300)


def _not_meant() -> str:
    """Returns why the CPU was not intended; '' if it may be."""
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
    """A context in which XLA starts as many threads as there are cores for this process, which a container may limit.

    The variable is only set while XLA starts, because child processes may have other cores.
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
