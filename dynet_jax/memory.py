"""Memory: the number of images processed at once, the detection of memory errors, and the messages about them."""

import errno
from collections.abc import Iterator, Sequence

from dynet_jax.errors import UserError, named

# Pixels of the images on a device outside training. ResNet50 needs 21 MB per image of 224x224.
PIXELS_AT_ONCE = 64 * 224 * 224
SIGNS = (
    *("resource_exhausted", "memoryerror", "out of memory", "out_of_memory", "alloc_failed"),  # JAX and PyTorch
    *("insufficient memory", "bad_alloc", "cannot allocate memory"),  # OpenCV, C++, the system
)


class OutOfMemory(UserError):
    """An error: there is not enough memory; the message says how to need less."""


def images_at_once(size: Sequence[int], most: int) -> int:
    """Returns how many images of a size, [height, width, ...], a device processes at once: from one to `most`.

    >>> images_at_once((224, 224), 2048), images_at_once((1024, 2048), 8), images_at_once((32, 32), 2048)
    (64, 1, 2048)
    """
    return max(1, min(most, PIXELS_AT_ONCE // (size[0] * size[1])))


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of JAX, PyTorch, OpenCV or Python reports a lack of memory, a TPU's VMEM excepted.

    >>> [is_out_of_memory(error) for error in (MemoryError(), ValueError("RESOURCE_EXHAUSTED: 1 GB"), OSError())]
    [True, True, False]
    """
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
        return getattr(error, "errno", None) == errno.ENOMEM  # their texts contain file names
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or ("vmem" not in words and any(sign in words for sign in SIGNS))


def memory_cause(error: BaseException | None) -> BaseException | None:
    """Returns the error, or the cause of it, that reports a lack of memory; None if there is none."""
    return next(filter(is_out_of_memory, causes(error)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explained(error: BaseException, advice: str = "") -> str:
    """Returns the message for a lack of memory. advice: how this command can use less."""
    on_device = any(sign in str(error).lower() for sign in ("resource_exhausted", "cuda"))
    where, shown = ("the device's memory", " (`nvidia-smi` lists those of a GPU)") if on_device else ("memory", "")
    other = f"end other processes that use it{shown}"
    return f"{where} is not enough ({named(error)}); {f'{advice}, or ' if advice else ''}{other}"
