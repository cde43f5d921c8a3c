"""For which hardware a program is being traced: the forms of a convolution differ by it."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_other: contextvars.ContextVar[str | None] = contextvars.ContextVar("other", default=None)


def target_backend() -> str:
    """'cpu', 'gpu' or 'tpu': the machine's own, except inside `tracing_for`."""
    return _other.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(backend: str) -> Iterator[None]:
    """Trace for hardware that this machine does not have, to compile ahead of time for it.

    Functions that are jitted already keep the program that they were traced to.

    >>> with tracing_for("tpu"):
    ...     target_backend()
    'tpu'
    """
    token = _other.set(backend)
    try:
        yield
    finally:
        _other.reset(token)
