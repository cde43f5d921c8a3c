"""The library's functions, as C has them.

It is the one that $DYNET_LIBRARY names, or came with this package, or is compiled here at its first use.
"""

import ctypes
import functools
import os
from pathlib import Path

from dynet_runtime.build import build
from dynet_runtime.errors import Error

Integer, Pointer, Text = ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p
PREBUILT = Path(__file__).parent / "lib" / "libdynet.so"
TOO_SMALL, OTHER_SIZES, NO_MEMORY, NO_THREADS, INTERNAL, NO_FILE, DAMAGED, NEWER, ARGUMENT = range(1, 10)


class Description(ctypes.Structure):
    """struct dynet_description"""

    _fields_ = [
        *((name, Text) for name in ("name", "arithmetic", "storage", "processor")),
        *((name, Integer) for name in ("threads", "classes", "named_classes", "is_segmentation")),
        *((name, Integer) for name in ("image_height", "image_width", "resize_to")),
        *((name, ctypes.c_float * 3) for name in ("mean", "std")),
    ]


MODEL = ctypes.POINTER(Pointer)
FUNCTIONS = {  # what they take, and what they return unless it is a status
    "dynet_version": ((), Text),
    "dynet_last_error": ((), Text),
    "dynet_level": ((Integer,), Text),
    "dynet_load": ((Text, Integer, MODEL), Integer),
    "dynet_load_memory": ((Pointer, ctypes.c_size_t, Integer, MODEL), Integer),
    "dynet_free": ((Pointer,), None),
    "dynet_describe": ((Pointer, ctypes.POINTER(Description)), None),
    "dynet_class_name": ((Pointer, Integer), Text),
    "dynet_output_shape": ((Pointer, Integer, Integer, Pointer), Integer),
    "dynet_run": ((Pointer, Pointer, *(Integer,) * 3, Pointer, ctypes.c_size_t), Integer),
    "dynet_run_floats": ((Pointer, Pointer, *(Integer,) * 3, Pointer, ctypes.c_size_t), Integer),
    "dynet_preprocess": ((Pointer, Pointer, Integer, Integer, Pointer), Integer),
    "dynet_softmax": ((Pointer, ctypes.c_size_t, Integer), None),
    "dynet_has_bfloat16": ((), Integer),
    "dynet_operations": ((Pointer,), Integer),
    "dynet_profile": ((Pointer, Pointer, Integer, Integer, Pointer), Integer),
}


@functools.cache
def load_library() -> ctypes.CDLL:
    """Returns the library; it is compiled if none came with this package.

    Raises Error if it cannot be compiled or loaded.
    """
    path = _library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # by a disk whose programs may not be run, or another C++ library than it was made with
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise Error(
            f"the native engine cannot be loaded from {path}: {reason}; remove that file, name another cache folder as "
            "$XDG_CACHE_HOME, or use runtime='jax'"
        ) from error
    for name, (arguments, result) in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


def _library_path() -> Path:
    if named := os.environ.get("DYNET_LIBRARY"):
        return Path(named)
    return PREBUILT if PREBUILT.is_file() else build()


def check(status: int) -> None:
    """Raises Error for what a function of the library returned, unless it is 0."""
    if status:
        raise Error(load_library().dynet_last_error().decode(errors="replace"), status)


def levels() -> list[str]:
    """Returns the levels of instructions that this processor has and the library was compiled for, the best first."""
    found, library = [], load_library()
    while (name := library.dynet_level(len(found))) is not None:
        found.append(name.decode())
    return found
