"""What this machine is: its processor, and the cores that a process may use."""

import hashlib
import math
import os
import platform
import re
import time
from pathlib import Path

import dynet_runtime
from dynet_jax.errors import UserError
from dynet_runtime import cache

ROOT = Path("/")


def cache_folder() -> Path:
    """Returns ~/.cache/dynet_jax/PROCESSOR, where compiled programs are kept.

    Raises UserError for a user without a home, as containers have them.
    """
    try:
        return cache.cache_folder()
    except dynet_runtime.Error as error:
        raise UserError(str(error)) from error


def processor_model() -> str:
    """Its name for people, as the system knows it."""
    model = cache.cpuinfo("model name").partition(":")[2].strip()
    return model or platform.processor() or platform.machine()


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


def cores(root: Path = ROOT) -> list[int]:
    """The cores that this process may use at once, each once before any twice: threads of one core are not two cores.

    A container may have the time of fewer than it sees. A system that cannot pin processes has its cores numbered.
    root: of the file system.
    """
    order = cores_of_system(root)
    limit = quota(root)
    return order if limit is None else order[: max(1, math.ceil(limit))]


def cores_of_system(root: Path = ROOT) -> list[int]:
    """Those that the system lets this process run on, in that order."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed, seen = sorted(os.sched_getaffinity(0)), {}
    order = []
    for core in allowed:
        siblings = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        physical = siblings.read_text() if siblings.is_file() else str(core)
        seen[physical] = seen.get(physical, 0) + 1
        order.append((seen[physical], core))
    return [core for _, core in sorted(order)]


def quota(root: Path = ROOT) -> float | None:
    """The time, in cores, that control groups leave to this process: the least of its group and of those around it.

    None where there is no such limit. A container may read names of groups that it does not see, as the host has them:
    what is mounted for it is its own group then, which counts with all between the two.
    """
    limits = []
    for controllers, group in re.findall(r"^\d+:([^:]*):(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE):
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mounted in {controllers, "cpu" if controllers else ""}:  # version 2 has all controllers in one place
            folder = root / "sys/fs/cgroup" / mounted
            limits += [_quota_of(folder.joinpath(*parts[:depth])) for depth in range(len(parts) + 1)]
    return min((limit for limit in limits if limit), default=None)


def _quota_of(group: Path) -> float | None:
    """Of one control group, of version 2 or 1: 'max' and -1 are none."""
    words = _text(group / "cpu.max") or _text(group / "cpu.cfs_quota_us") + _text(group / "cpu.cfs_period_us")
    found = re.fullmatch(r"(\d+)\s+([1-9]\d*)\s*", words)
    return int(found[1]) / int(found[2]) if found else None


def _text(file: Path) -> str:
    """Of a file; none of one that is not there, or not for this process."""
    try:
        return file.read_text()
    except OSError:
        return ""
