"""Reading weight files: .npz, safetensors, and the output of `torch.save`, recognised by content and without PyTorch.

No code in a pickle is executed: only containers and tensors are created, and any other class becomes an inert
`Foreign`.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dynet_jax.errors import UserError, named

LEGACY = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number of torch.save before PyTorch 1.6
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
EXPECTED = "expected are .safetensors, .npz, and files of torch.save"
KNOWN_OTHERS = {  # first bytes of other files that users take for weights
    b"version https://git-lfs": "is a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"<": "is a web page or XML, not the file itself; download it again",
    b"{": "is JSON; the weights are in another file",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed by xz; unpack it first",
    b"\x89HDF": "is HDF5, of Keras; " + EXPECTED,
}
TYPES = {  # the names of PyTorch's storages and types, and those of safetensors
    np.dtype(kind): names.split()
    for kind, names in {
        np.float64: "DoubleStorage float64 F64",
        np.float32: "FloatStorage float32 F32",
        np.float16: "HalfStorage float16 F16",
        ml_dtypes.bfloat16: "BFloat16Storage bfloat16 BF16",
        ml_dtypes.float8_e4m3fn: "float8_e4m3fn F8_E4M3",
        ml_dtypes.float8_e5m2: "float8_e5m2 F8_E5M2",
        np.complex64: "ComplexFloatStorage complex64",
        np.complex128: "ComplexDoubleStorage complex128",
        np.int64: "LongStorage int64 I64",
        np.int32: "IntStorage int32 I32",
        np.int16: "ShortStorage int16 I16",
        np.int8: "CharStorage int8 I8",
        np.uint8: "ByteStorage UntypedStorage uint8 U8",
        np.bool_: "BoolStorage bool BOOL",
    }.items()
}
TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names}


class Foreign(dict):
    """A placeholder for an object of any other class: it accepts what a pickle gives it, and does nothing with it."""

    __hash__ = object.__hash__  # pyrefly: ignore[bad-assignment]  (a pickle may have it as a key)

    def __init__(self, *arguments: Any, **named_arguments: Any):
        super().__init__()
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "Foreign":
        return Foreign()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class Stored(NamedTuple):
    """A tensor in a file of `torch.save`; its values are read when `array` is called."""

    storage: "Storage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any = None

    def array(self) -> np.ndarray:
        """Returns the values. Raises ValueError if the file has no such values."""
        dtype = self.dtype or self.storage.dtype
        if not isinstance(dtype, np.dtype):
            raise ValueError("values of a type that is not known")
        flat = np.frombuffer(self.storage.read(), dtype)
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= flat.size:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage")
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


class Storage(NamedTuple):
    """The location of tensors' values; dtype is a NumPy type, or that of an unknown kind."""

    dtype: Any
    key: str
    contents: Mapping[str, Callable[[], bytes]]

    def read(self) -> bytes:
        """Returns the bytes."""
        return self.contents[self.key]()


def read_checkpoint(file: Path) -> Any:
    """Returns the content of a file; for a state dict, a mapping from names to arrays or `Stored` tensors.

    Raises UserError if it is not a file of weights, or is truncated.
    """
    if not file.is_file():
        raise UserError(f"{file} is a folder; name a file in it" if file.is_dir() else f"there is no file {file}")
    with file.open("rb") as stream:
        begin = stream.read(1 << 8)
    try:
        if begin[8:9] == b"{":
            return _read_safetensors(file)
        if begin.startswith(b"PK"):
            return _read_zip(file)
        if LEGACY in begin[:32]:
            return _read_legacy(file)
    except Exception as error:  # each library has its own exception for a truncated or wrong file
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read as weights ({named(error)}); is it complete?") from error
    if begin.startswith(PICKLED):
        raise UserError(f"{file} is a pickle, but not of torch.save; {EXPECTED}")
    known = [text for start, text in KNOWN_OTHERS.items() if begin.lstrip().startswith(start)]
    raise UserError(f"{file} {known[0] if known else 'holds no weights: ' + EXPECTED}")


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    import safetensors

    tensors = safetensors.deserialize(file.read_bytes())
    return {name: np.frombuffer(t["data"], TYPE_OF[t["dtype"]]).reshape(t["shape"]) for name, t in tensors}


def _read_zip(file: Path) -> Any:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if not pickles:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    top = pickles[0].removesuffix("data.pkl")
    if f"{top}constants.pkl" in names:
        raise UserError(f"{file} is a program of TorchScript; save the state_dict() of its module instead")
    if f"{top}byteorder" in names and archive.read(f"{top}byteorder") != b"little":
        raise UserError(f"{file} was written on a big-endian machine; save it again on another")
    data = f"{top}data/"
    contents = {n.removeprefix(data): lambda n=n: archive.read(n) for n in names if n.startswith(data)}
    return _Unpickler(io.BytesIO(archive.read(pickles[0])), contents).load()


def _read_legacy(file: Path) -> Any:
    """Reads consecutive pickles: the fourth is the content, the fifth the order of the storages that follow."""
    contents: dict[str, Callable[[], bytes]] = {}
    with file.open("rb") as stream:
        sizes: dict[str, int] = {}
        *_, content, keys = (_Unpickler(stream, contents, sizes).load() for _ in range(5))
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            values = stream.read(count * sizes[key])
            if len(values) < count * sizes[key]:
                raise EOFError("it is cut short")
            contents[key] = lambda values=values: values
    return content


class _Unpickler(pickle.Unpickler):
    """An unpickler that returns tensors as `Stored`, containers as themselves, and everything else as `Foreign`.

    sizes: receives the size in bytes of one value for every storage.
    """

    def __init__(self, stream, contents: Mapping[str, Callable[[], bytes]], sizes: dict[str, int] | None = None):
        super().__init__(stream, encoding="latin1")
        self._contents, self._sizes = contents, {} if sizes is None else sizes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("collections", "OrderedDict"), ("collections", "defaultdict")):
            return collections.OrderedDict if name == "OrderedDict" else lambda *_: {}
        if module.split(".")[0] == "torch":
            return TYPE_OF.get(name) or _REBUILD.get(name) or (tuple if name == "Size" else Foreign)
        return Foreign

    def persistent_load(self, pid: Any) -> Storage:
        _, dtype, key, *_ = pid
        if isinstance(dtype, np.dtype):
            self._sizes[key] = dtype.itemsize
        return Storage(dtype, key, self._contents)


_REBUILD: dict[str, Callable] = {
    "_rebuild_tensor": lambda storage, offset, shape, strides: Stored(storage, offset, shape, strides),
    "_rebuild_tensor_v2": lambda storage, offset, shape, strides, *_: Stored(storage, offset, shape, strides),
    "_rebuild_tensor_v3": lambda storage, offset, shape, strides, grad, hooks, dtype, *_: Stored(
        storage, offset, shape, strides, dtype
    ),
    "_rebuild_parameter": lambda data, *_: data,
    "_rebuild_parameter_with_state": lambda data, *_: data,
    "_rebuild_from_type_v2": lambda rebuild, kind, arguments, state: rebuild(*arguments),
}
