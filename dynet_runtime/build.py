"""Compiles the library for this machine's processor, once, into a cache of shared libraries."""

import contextlib
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from dynet_runtime.cache import cache_folder, processor
from dynet_runtime.errors import Error

SOURCES = Path(__file__).parent / "src"
HEADER = Path(__file__).parent / "include" / "dynet.h"
COMPILE = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-c")
LEVEL = ("-march=native", "-ffast-math", "-fno-finite-math-only", "-DDYNET_LEVEL=native")
# Apart: a library that is linked with -ffast-math makes denormals zeros for whoever loads it, the whole process.
LINK = ("-shared", "-pthread")
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 600  # that a compiler may take; it takes 15


@functools.cache
def build() -> Path:
    """Returns the path of the shared library. The first time, compiling it takes about 20 seconds.

    It is compiled where it runs, not when the package is installed, because it is for exactly this processor. $CXX
    names another compiler than the system's. Its name holds its digest: one that a full disk or a crash has cut short
    would end the process with a bus error, which nobody can catch, and is compiled anew instead.

    Raises Error if there is no compiler, or it fails.
    """
    compiler = _compiler()
    folder, name = cache_folder(), f"engine-{_fingerprint(compiler)}-"
    for library in sorted(folder.glob(f"{name}*.so")):
        if library.name == f"{name}{_digest_of(library)}.so":
            return library
        with contextlib.suppress(OSError):
            library.unlink()
    return _compile(compiler, folder, name)


def _compiler() -> list[str]:
    """The command; $CXX may have arguments, like 'ccache g++'."""
    try:
        command = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise Error(f"$CXX cannot be read as a command: {error}") from error
    command = command or list(filter(shutil.which, COMPILERS))[:1]
    if not command or shutil.which(command[0]) is None:
        raise Error(
            f"the native engine needs a C++ compiler ({command[0] if command else ' or '.join(COMPILERS)} is not "
            "there); install one, like g++ 11 or clang++ 14, or use runtime='jax'"
        )
    return command


def _fingerprint(compiler: list[str]) -> str:
    """Returns a digest of everything that the library depends on."""
    sources = [path.read_bytes() for path in [HEADER, *sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.cpp"))]]
    words = [shlex.join(compiler), _run(compiler, "--version"), processor(), " ".join(COMPILE + LEVEL + LINK)]
    digest = hashlib.blake2b(digest_size=8)
    for part in (*(word.encode() for word in words), *sources):
        digest.update(hashlib.blake2b(part).digest())
    return digest.hexdigest()


def _digest_of(library: Path) -> str:
    """Returns a digest of its content; an empty one if the file cannot be read."""
    try:
        return hashlib.blake2b(library.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


def _compile(compiler: list[str], folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / "engine.so"
            objects = [_object(compiler, source, Path(temporary)) for source in sorted(SOURCES.glob("*.cpp"))]
            _run(compiler, *LINK, *objects, "-o", str(made))
            if not made.is_file():
                raise _failure(compiler, "it leaves no library")
            with made.open("rb") as file:  # on the disk before it has its name
                os.fsync(file.fileno())
            library = folder / f"{name}{_digest_of(made)}.so"
            os.replace(made, library)  # another process may be doing the same
            return library
    except OSError as error:
        raise Error(
            f"the native engine cannot be written to {folder}: {error.strerror}; name another cache folder as "
            "$XDG_CACHE_HOME, or use runtime='jax'"
        ) from error


def _object(compiler: list[str], source: Path, folder: Path) -> str:
    compiled = folder / f"{source.stem}.o"
    _run(compiler, *COMPILE, *(LEVEL if source.stem == "level" else ()), str(source), "-o", str(compiled))
    return str(compiled)


def _run(compiler: list[str], *arguments: str) -> str:
    """Returns what it prints."""
    try:
        result = subprocess.run(
            [*compiler, *arguments], capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _failure(compiler, f"it takes over {SECONDS} s") from None
    except OSError as error:  # of another architecture, perhaps
        raise _failure(compiler, f"it does not start: {error.strerror}") from error
    if result.returncode:
        raise _failure(compiler, " ".join((result.stderr or f"exit code {result.returncode}").split())[:300])
    return result.stdout


def _failure(compiler: list[str], reason: str) -> Error:
    return Error(
        f"{shlex.join(compiler)} cannot compile the native engine: {reason}; name another compiler as $CXX, another "
        "cache folder as $XDG_CACHE_HOME, or use runtime='jax'"
    )
