"""Which compiler a number comes from: numbers of different ones are not to be mixed in a table."""

from importlib import metadata


def tpu_compiler() -> dict[str, str | None]:
    """{'jax': ..., 'libtpu': ...}; None for one that is not installed."""
    return {package: _version(package) for package in ("jax", "libtpu")}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
