"""The engine's functions, as C has them."""

import ctypes
import functools

import numpy as np

from dynet_jax.errors import UserError, one_line
from dynet_jax.inference.native.build import build
from dynet_jax.inference.native.quads import Requantization

Integer, Pointer = ctypes.c_int32, ctypes.c_void_p


class LinearArguments(ctypes.Structure):
    """struct LinearArguments"""

    _fields_ = [
        *((name, Integer) for name in ("c_in", "c_out", "storage")),
        *((name, Pointer) for name in ("weights", "scales", "bias")),
    ]


class ConvolutionArguments(ctypes.Structure):
    """struct ConvolutionArguments"""

    _fields_ = [
        ("geometry", Integer * 15),
        *((name, Integer) for name in ("x", "y", "coefficients", "residual")),
        *((name, Integer) for name in ("shared", "group_size", "storage", "mode", "count")),
        *((name, Pointer) for name in ("weights", "scales", "bias", "blocks")),
        ("panels", ctypes.c_int64),
    ]


class QuadConvolutionArguments(ctypes.Structure):
    """struct QuadConvolutionArguments"""

    _fields_ = [
        ("geometry", Integer * 15),
        *((name, Integer) for name in ("x", "y", "coefficients", "residual")),
        *((name, Integer) for name in ("shared", "group_size", "storage", "to_floats", "row", "quads", "unit")),
        ("padding", ctypes.c_uint32),
        *((name, Pointer) for name in ("weights", "scales", "bias")),
        ("requantization", Requantization),
    ]


LINEAR, CONVOLUTION = ctypes.POINTER(LinearArguments), ctypes.POINTER(ConvolutionArguments)
FUNCTIONS = {  # what they take, after the engine except those WITHOUT_ENGINE
    "dynet_new": (ctypes.POINTER(Pointer), *(Integer,) * 3, *(Pointer,) * 2),
    "dynet_has_bfloat16": (),
    "dynet_quad_words": (),
    "dynet_delete": (),
    "dynet_convolution": (CONVOLUTION,),
    "dynet_quad_convolution": (ctypes.POINTER(QuadConvolutionArguments),),
    "dynet_predictor": (Integer, *(Pointer,) * 2, *(Integer,) * 3, *(LINEAR,) * 2, Pointer),
    "dynet_dense": (Integer, Integer, LINEAR, Integer),
    "dynet_mean": (Integer, Integer),
    "dynet_elementwise": (Pointer, *(Integer,) * 4, *(ctypes.c_float,) * 2),
    "dynet_max_pool": (Pointer, Integer, Integer),
    "dynet_channels": (Pointer, Integer, Integer, Pointer, Integer),
    "dynet_shape": (Integer, Integer, Pointer),
    "dynet_run": (Pointer, *(Integer,) * 4, Pointer, ctypes.c_int64),
    "dynet_profile": (Pointer, *(Integer,) * 3, Pointer, Pointer),
}
WITHOUT_ENGINE = ("dynet_new", "dynet_has_bfloat16", "dynet_quad_words")
DONE, TOO_SMALL, OTHER_SIZES, NO_MEMORY, NO_THREADS = range(5)  # enum Status
MESSAGES = {
    TOO_SMALL: "{what} are too small for this network",
    OTHER_SIZES: "of {what} this network takes maps of different sizes together, which the native engine cannot; "
    "use runtime='jax'",
    NO_MEMORY: "there is not enough memory for {what}",
    NO_THREADS: "the system has no threads for {what}; use fewer",
}


def check(status: int, what: str) -> None:
    """Raises UserError for a status that is not DONE. what: is asked for; images, or an engine."""
    if status in MESSAGES:
        raise UserError(MESSAGES[status].format(what=what))
    if status != DONE:
        raise RuntimeError(f"the native engine failed on {what}, with status {status}: please report it")


def address(array: np.ndarray) -> int:
    """Where it lies."""
    return array.ctypes.data


@functools.cache
def load() -> ctypes.CDLL:
    """The engine; compiled if it has not been. Raises UserError if that is not possible, or it cannot be loaded."""
    path = build()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # by a disk whose programs may not be run, or another C++ library than it was made with
        reason = one_line(error).removeprefix(f"{path}: ")
        raise UserError(
            f"the native engine cannot be loaded from {path}: {reason}; remove that file, name another cache folder "
            "as $XDG_CACHE_HOME, or use runtime='jax'"
        ) from error
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes = arguments if name in WITHOUT_ENGINE else (Pointer, *arguments)
        function.restype = None if name == "dynet_delete" else Integer
    return library


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 arithmetic, so that it is the faster one."""
    return bool(load().dynet_has_bfloat16())
