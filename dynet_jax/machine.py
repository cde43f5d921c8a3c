"""What this machine is: its processor, and the cores that a process may use."""

import hashlib
import os
import platform
import time
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled programs are kept: ~/.cache/dynet_jax/PROCESSOR, because one for another processor may not run."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dynet_jax" / processor()


def processor() -> str:
    """A name for the kind of processor: its architecture and a digest of what it can do."""
    flags = _cpuinfo("flags", "Features") or platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(flags.encode(), digest_size=4).hexdigest()}"


def processor_model() -> str:
    """Its name for people, as the system knows it."""
    model = _cpuinfo("model name").partition(":")[2].strip()
    return model or platform.processor() or platform.machine()


def _cpuinfo(*names: str) -> str:
    """The first line of /proc/cpuinfo that begins with one of the names, or an empty one."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line for line in lines if line.startswith(names)), "")


def source_digest(*folders: Path) -> str:
    """Of the Python files in some folders, or in this package: the same for the same code, whatever its version."""
    digest = hashlib.blake2b(digest_size=4)
    for folder in folders or [Path(__file__).parent]:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def machine() -> str:
    """The processor and how many of its cores this process may use, for people."""
    return f"{len(cores())} cores of {processor_model()}"


def share_of_others(seconds: float = 1.0) -> float | None:
    """How much of all processors others used while this process slept, 0 to 1; None where the system does not say."""
    file = Path("/proc/stat")
    if not file.is_file():
        return None

    def busy_and_all() -> tuple[int, int]:
        times = list(map(int, file.read_text().splitlines()[0].split()[1:9]))
        return sum(times) - times[3] - times[4], sum(times)  # all but idle and waiting for disks

    before = busy_and_all()
    time.sleep(seconds)
    busy, total = (after - then for after, then in zip(busy_and_all(), before))
    return busy / max(1, total)


def cores() -> list[int]:
    """The cores that this process may use, each once before any twice: threads of one core are not two cores.

    A system that cannot pin processes has its cores numbered.
    """
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed, seen = sorted(os.sched_getaffinity(0)), {}
    order = []
    for core in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        physical = siblings.read_text() if siblings.is_file() else str(core)
        seen[physical] = seen.get(physical, 0) + 1
        order.append((seen[physical], core))
    return [core for _, core in sorted(order)]
