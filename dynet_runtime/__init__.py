"""Runs networks that `dynet export --format=native` has written, with NumPy alone.

>>> import dynet_runtime
>>> model = dynet_runtime.load("dy_mobile.dynet")  # doctest: +SKIP
>>> model.top(picture)  # doctest: +SKIP
[('tench', 0.93), ...]
"""

import os

from dynet_runtime.errors import Error
from dynet_runtime.model import Model

__version__ = "0.2.0"
__all__ = ["Error", "Model", "load"]


def load(source: str | os.PathLike | bytes, threads: int = 0) -> Model:
    """Returns the network of a file, or of its content.

    threads: how many compute; 0 is all cores that this process may use.
    Raises Error for a file that is none, or is damaged, or has a newer version.
    """
    return Model(source, threads)
