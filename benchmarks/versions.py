"""Which source and compiler a number comes from: numbers of different ones are not to be mixed in a table."""

import functools
from importlib import metadata
from pathlib import Path

from dynet_jax.machine import source_digest

ROOT = Path(__file__).parents[1]
OF_PROGRAMS = tuple(f"dynet_jax/{folder}" for folder in ("compiled", "config", "layers", "models", "ops", "tpu", "train"))


@functools.cache
def tpu_versions() -> dict[str, str | None]:
    """{'jax': ..., 'libtpu': ..., 'source': a digest}; None for a package that is not installed."""
    packages = {package: _version(package) for package in ("jax", "libtpu")}
    return {**packages, "source": source_digest(*(ROOT / folder for folder in OF_PROGRAMS))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
