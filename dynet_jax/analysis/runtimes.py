"""The registry of runtimes that `dynet benchmark` can run a network with, and the cells that they run."""

import dataclasses
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from dynet_jax.registry import Registry

Call = Callable[[np.ndarray], np.ndarray]  # [batch, height, width, 3] uint8 -> logits [batch, classes]


class Cell(NamedTuple):
    """One item to time.

    pair: the network of the comparison, usually a dynamic one; network: that one, or its base.
    numbers: a key of NUMBERS.
    calibration: a folder of images that determine the ranges of int8 maps; empty for images of noise.
    """

    pair: str
    network: str
    runtime: str
    numbers: str
    threads: int
    image_size: int
    batch: int
    width: float = 1.0
    calibration: str = ""

    @property
    def is_dynamic(self) -> bool:
        return self.network == self.pair


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A runtime. All runtimes receive the same bytes and normalise them within the measured time.

    Attributes:
      name: its name in --runtimes. about: a description on one line.
      prepare: returns the function that runs a cell, with its numbers and threads. It may raise any exception.
      packages: packages that must be installed.
      numbers: supported keys of NUMBERS, or a function that finds them, called if the packages are installed.
      static_numbers: those of them that are supported only for static networks.
      threads: the number of threads. Every process is pinned to as many cores as the cell has threads in any case.
      has: whether it has a network of a width.
      shares_weights: whether its networks are made from our programs, so that logits can be compared.
      seconds_of_spinning: how long its threads spin after a run, waiting for more work. Within its turn this is an
        advantage, as for the native engine, whose threads sleep after 0.2 ms.
      problem: returns why it does not work although the packages are installed, or None.
    """

    name: str
    about: str
    prepare: Callable[[Cell], Call]
    packages: tuple[str, ...] = ()
    numbers: tuple[str, ...] | Callable[[], tuple[str, ...]] = ("float32",)
    static_numbers: tuple[str, ...] = ()
    threads: str = "as told"
    has: Callable[[str, float], bool] = lambda network, width: True
    shares_weights: bool = True
    seconds_of_spinning: float = 0.0
    problem: Callable[[], str | None] = lambda: None

    @property
    def offered(self) -> tuple[str, ...]:
        return self.numbers() if callable(self.numbers) else self.numbers

    def missing(self) -> str | None:
        """Returns how to make the runtime available; None if it is."""
        if all(map(importlib.util.find_spec, self.packages)):
            return self.problem()
        return f"not installed; pip install {' '.join(self.packages)}"

    def versions(self) -> str:
        return ", ".join(f"{package} {version(package)}" for package in self.packages or ("dynet_jax",))


def _import_own() -> None:
    from dynet_jax.analysis import latency_runtimes  # noqa: F401  (it registers this package's, and needs this file)


RUNTIMES: Registry[Runtime] = Registry("runtime", own=_import_own)


def register_runtime(name: str, **known) -> Callable[[Callable[[Cell], Call]], Callable[[Cell], Call]]:
    """Registers a function that prepares cells; `known` are attributes of `Runtime`, `about` is its docstring.

    Raises ValueError if the name is taken.

    >>> @register_runtime("zeros", shares_weights=False)
    ... def zeros(cell):
    ...     '''It computes nothing.'''
    ...     return lambda images: np.zeros((len(images), 1000), np.float32)
    >>> RUNTIMES.pop("zeros").prepare(None)(np.zeros((2, 8, 8, 3))).shape
    (2, 1000)
    """

    def register(prepare):
        about = (prepare.__doc__ or "").partition("\n")[0].rstrip(".")
        RUNTIMES.add(name, Runtime(name, about, prepare, **known))
        return prepare

    return register


def random_images(cell: Cell) -> np.ndarray:
    """Returns noise, [batch, image_size, image_size, 3] uint8."""
    shape = (cell.batch, cell.image_size, cell.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
