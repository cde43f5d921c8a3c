"""Memory that is not there: how libraries say it, and what a person is told."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX, PyTorch, OpenCV or Python says that memory is at its end.

    >>> [is_out_of_memory(error) for error in (MemoryError(), ValueError("RESOURCE_EXHAUSTED: 1 GB"), OSError())]
    [True, True, False]
    """
    words = f"{type(error).__name__} {error}"
    signs = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "Insufficient memory", "bad_alloc", "Cannot allocate memory")
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)
