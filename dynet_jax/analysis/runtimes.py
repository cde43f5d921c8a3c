"""What can run a network on this machine's processor, by name, for `dynet benchmark`; and what it is asked to run."""

import dataclasses
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from dynet_jax.registry import Registry

Call = Callable[[np.ndarray], np.ndarray]  # [batch, height, width, 3] uint8 -> logits [batch, classes]


class Cell(NamedTuple):
    """One thing that is timed.

    pair: the network of the comparison, a dynamic one as a rule; network: that one, or its base.
    numbers: a key of NUMBERS.
    calibration: a folder of images by which the ranges of int8 maps are chosen; empty for images of noise.
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
    """A runtime. All get the same bytes and normalise them within the time that is measured.

    Attributes:
      name: of --runtimes. about: what it is, on one line.
      prepare: makes what runs a cell, with its numbers, on its threads. It raises whatever it likes if it cannot.
      packages: what must be installed.
      numbers: keys of NUMBERS that it has; or a function that finds them, called where the packages are installed.
      static_numbers: those of them that it has for static networks alone.
      threads: how many it takes. Every process is pinned to as many cores as the cell has threads, whatever it takes.
      has: whether it has a network of a width.
      shares_weights: whether its networks are made of our programs, so that logits can be compared.
      seconds_of_spinning: for which its threads wait for more work by looking, after a run. Within its turn that is to
        its advantage, as it is to the native engine's, whose threads sleep after 0.2 ms.
      problem: says what keeps it from working where the packages are installed, or None.
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
        """What to do in order to have it; None if it is there."""
        if all(map(importlib.util.find_spec, self.packages)):
            return self.problem()
        return f"not installed; pip install {' '.join(self.packages)}"

    def versions(self) -> str:
        return ", ".join(f"{package} {version(package)}" for package in self.packages or ("dynet_jax",))


def _import_own() -> None:
    from dynet_jax.analysis import latency_runtimes  # noqa: F401  (it registers this package's, and needs this file)


RUNTIMES: Registry[Runtime] = Registry("runtime", own=_import_own)


def register_runtime(name: str, **known) -> Callable[[Callable[[Cell], Call]], Callable[[Cell], Call]]:
    """Decorator of a function that prepares cells; `known` are attributes of `Runtime`, `about` is its docstring.

    Raises ValueError for a name that is taken.

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
    """[batch, image_size, image_size, 3] uint8"""
    shape = (cell.batch, cell.image_size, cell.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
