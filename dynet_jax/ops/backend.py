"""For which hardware a program is being traced: the forms of a convolution differ by it."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_other: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("other", default=None)


def target_backend() -> str:
    """'cpu', 'gpu' or 'tpu': the machine's own, except inside `tracing_for`."""
    return other[0] if (other := _other.get()) else jax.default_backend()


def target_device_kind() -> str:
    """Its name, like 'TPU v5 lite'; '' inside a `tracing_for` that names none."""
    return other[1] if (other := _other.get()) else jax.devices()[0].device_kind


@contextlib.contextmanager
def tracing_for(backend: str, device_kind: str = "") -> Iterator[None]:
    """Trace for hardware that this machine does not have, to compile ahead of time for it.

    device_kind: as `jax.Device.device_kind` says it.

    Functions that are jitted already keep the program that they were traced to.

    >>> with tracing_for("tpu"):
    ...     target_backend()
    'tpu'
    """
    token = _other.set((backend, device_kind))
    try:
        yield
    finally:
        _other.reset(token)
