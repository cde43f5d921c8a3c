"""Memory: how many images are worked on at once, how libraries say that it is not enough, what a person is told."""

import errno
from collections.abc import Iterator, Sequence

from dynet_jax.errors import UserError, named

# Of the images on a device, where nothing is trained: ResNet50 needs 21 MB for one of 224x224.
PIXELS_AT_ONCE = 64 * 224 * 224
SIGNS = (
    *("resource_exhausted", "memoryerror", "out of memory", "out_of_memory", "alloc_failed"),  # JAX and PyTorch
    *("insufficient memory", "bad_alloc", "cannot allocate memory"),  # OpenCV, C++, the system
)


class OutOfMemory(UserError):
    """There is not enough memory; the message says what needs less."""


def images_at_once(size: Sequence[int], most: int) -> int:
    """Returns how many images of a size, [height, width, ...], a device is given: at least one, and at most `most`.

    >>> images_at_once((224, 224), 2048), images_at_once((1024, 2048), 8), images_at_once((32, 32), 2048)
    (64, 1, 2048)
    """
    return max(1, min(most, PIXELS_AT_ONCE // (size[0] * size[1])))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX, PyTorch, OpenCV or Python says so. A TPU's VMEM is another matter.

    >>> [is_out_of_memory(error) for error in (MemoryError(), ValueError("RESOURCE_EXHAUSTED: 1 GB"), OSError())]
    [True, True, False]
    """
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
        return getattr(error, "errno", None) == errno.ENOMEM  # their texts have names of files
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or ("vmem" not in words and any(sign in words for sign in SIGNS))


def memory_cause(error: BaseException | None) -> BaseException | None:
    """Returns what says that memory is at its end, of an error and what has caused it; None if nothing does."""
    return next(filter(is_out_of_memory, causes(error)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explained(error: BaseException, advice: str = "") -> str:
    """Returns the line for an error of memory. advice: what needs less, of the command at hand."""
    on_device = any(sign in str(error).lower() for sign in ("resource_exhausted", "cuda"))
    where, shown = ("the device's memory", " (`nvidia-smi` lists those of a GPU)") if on_device else ("memory", "")
    other = f"end other processes that use it{shown}"
    return f"{where} is not enough ({named(error)}); {f'{advice}, or ' if advice else ''}{other}"
