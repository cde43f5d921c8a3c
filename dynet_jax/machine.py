"""What this machine is, for what is kept on its disk."""

import hashlib
import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled programs are kept: ~/.cache/dynet_jax/PROCESSOR, because one for another processor may not run."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dynet_jax" / processor()


def processor() -> str:
    """A name for the kind of processor: its architecture and a digest of what it can do."""
    features = Path("/proc/cpuinfo")
    lines = features.read_text().splitlines() if features.is_file() else [platform.processor()]
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{hashlib.blake2b(flags.encode(), digest_size=4).hexdigest()}"
