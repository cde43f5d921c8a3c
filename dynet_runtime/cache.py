"""Where what is compiled on this machine is kept."""

import hashlib
import os
import platform
from pathlib import Path

from dynet_runtime.errors import Error


def cache_folder() -> Path:
    """Returns ~/.cache/dynet_jax/PROCESSOR: what is compiled for another processor may not run here.

    Raises Error for a user without a home, as containers have them.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise Error("there is no home folder for compiled programs; set $XDG_CACHE_HOME to a folder") from error
    return base / "dynet_jax" / processor()


def processor() -> str:
    """Returns a name for the kind of processor: its architecture and a digest of what it can do."""
    flags = cpuinfo("flags", "Features") or platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(flags.encode(), digest_size=4).hexdigest()}"


def cpuinfo(*names: str) -> str:
    """Returns the first line of /proc/cpuinfo that begins with one of the names, or an empty one."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line for line in lines if line.startswith(names)), "")
