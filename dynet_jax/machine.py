"""Properties of this machine: its processor, and the cores that a process may use."""

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
    """Returns the folder of compiled programs, ~/.cache/dynet_jax/PROCESSOR; they may only run on that processor.

    Raises UserError for a user without a home folder, as in some containers.
    """
    try:
        return cache.cache_folder()
    except dynet_runtime.Error as error:
        raise UserError(str(error)) from error


def processor_model() -> str:
    """Returns the processor's model name, as the system reports it."""
    model = cache.cpuinfo("model name").partition(":")[2].strip()
    return model or platform.processor() or platform.machine()


def source_digest(*folders: Path) -> str:
    """Returns a digest of the Python files in some folders, or in this package, independent of its version."""
    digest = hashlib.blake2b(digest_size=4)
    for folder in folders or [Path(__file__).parent]:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def machine() -> str:
    """Returns the processor and the number of its cores that this process may use, for reports."""
    return f"{len(cores())} cores of {processor_model()}"


def share_of_others(seconds: float = 1.0) -> float | None:
    """Returns the share of all processors that others used while this process slept; None if it is unknown."""
    file = Path("/proc/stat")
    if not file.is_file():
        return None

    def busy_and_all() -> tuple[int, int]:
        times = list(map(int, file.read_text().splitlines()[0].split()[1:9]))
        return sum(times) - times[3] - times[4], sum(times)  # without idle and waiting for disks

    before = busy_and_all()
    time.sleep(seconds)
    busy, total = (after - then for after, then in zip(busy_and_all(), before))
    return busy / max(1, total)


def cores(root: Path = ROOT) -> list[int]:
    """Returns the cores that this process may use at once, physical cores before their second hyperthreads.

    A container may have the time of fewer cores than it sees. If a system cannot pin processes, cores are numbered.
    root: the root of the file system.
    """
    order = cores_of_system(root)
    limit = quota(root)
    return order if limit is None else order[: max(1, math.ceil(limit))]


def cores_of_system(root: Path = ROOT) -> list[int]:
    """Returns the cores on which the system lets this process run, in that order."""
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
    """Returns the CPU quota of this process, in cores: the minimum over its control group and the enclosing ones.

    None means no limit. A container may read group names of the host that it does not see. Its own group is then the
    one mounted for it, which counts together with those in between.
    """
    limits = []
    for controllers, group in re.findall(r"^\d+:([^:]*):(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE):
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mounted in {controllers, "cpu" if controllers else ""}:  # version 2 has one hierarchy for all controllers
            folder = root / "sys/fs/cgroup" / mounted
            limits += [_quota_of(folder.joinpath(*parts[:depth])) for depth in range(len(parts) + 1)]
    return min((limit for limit in limits if limit), default=None)


def _quota_of(group: Path) -> float | None:
    """Returns the quota of one control group, of version 2 or 1; 'max' and -1 mean none."""
    words = _text(group / "cpu.max") or _text(group / "cpu.cfs_quota_us") + _text(group / "cpu.cfs_period_us")
    found = re.fullmatch(r"(\d+)\s+([1-9]\d*)\s*", words)
    return int(found[1]) / int(found[2]) if found else None


def _text(file: Path) -> str:
    """Returns the text of a file, or '' if it does not exist or cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
