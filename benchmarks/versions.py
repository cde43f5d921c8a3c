"""The source and compiler of a number; numbers of different ones must not be mixed in a table."""

import functools
from importlib import metadata
from pathlib import Path

from dynet_jax.machine import source_digest

ROOT = Path(__file__).parents[1]
OF_PROGRAMS = tuple(f"dynet_jax/{folder}" for folder in ("compiled", "config", "layers", "models", "ops", "train"))


def tpu_versions() -> dict[str, str | None]:
    """Returns {'jax': ..., 'libtpu': ..., 'source': a digest}; None for a package that is not installed."""
    return _versions("tpu", ("jax", "libtpu"))


def gpu_versions() -> dict[str, str | None]:
    """Returns {'jax': ..., 'jax-cuda12-plugin': ..., 'source': a digest}, likewise."""
    return _versions("gpu", ("jax", "jax-cuda12-plugin"))


@functools.cache
def _versions(hardware: str, packages: tuple[str, ...]) -> dict[str, str | None]:
    folders = (ROOT / folder for folder in (*OF_PROGRAMS, f"dynet_jax/{hardware}"))
    return {**{package: _version(package) for package in packages}, "source": source_digest(*folders)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
