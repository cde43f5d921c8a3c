"""Functions that a recorder of programs (`dynet_jax.inference.record`) sees as one operation each.

Traced through, they would depend on the size of the images (a mean divides by it), or be many small operations.
"""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator

_recorder: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("recorder", default=None)


@contextlib.contextmanager
def recorded_by(recorder: Callable | None) -> Iterator[None]:
    """A context in which recorder(name, x, options, y) is asked for the result of every such function instead of y.

    options: all arguments but x, by their names.
    """
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def whole(function: Callable) -> Callable:
    """Decorator: a function of a map x, its first argument, and options that a recorder sees as one operation."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        y, recorder = function(*args, **kwargs), _recorder.get()
        if recorder is None:
            return y
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        x, *_ = given.arguments.values()
        return recorder(function.__name__, x, {k: v for k, v in given.arguments.items() if k != "x"}, y)

    return call
