"""Compiles the engine for this machine's processor, once, into a cache of shared libraries."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dynet_jax.errors import UserError, one_line
from dynet_jax.machine import cache_folder, processor

SOURCES = Path(__file__).parent
COMPILE = ("-std=c++20", "-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fPIC", "-pthread", "-c")
# Apart: a library that is linked with -ffast-math makes denormals zeros for whoever loads it, the whole process.
LINK = ("-shared", "-pthread")
COMPILERS = ("c++", "g++", "clang++")


@functools.cache
def build() -> Path:
    """The engine's shared library; it takes the compiler about 15 seconds the first time, and nothing later.

    It is compiled where it runs, not when the package is installed, because it is for exactly this processor. $CXX
    names another compiler than the system's.

    Raises UserError if there is no compiler, or it fails.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None or shutil.which(compiler) is None:
        raise UserError(
            f"the native engine needs a C++ compiler ({compiler or ' or '.join(COMPILERS)} is not there); install one, "
            "like g++ 11 or clang++ 14, or use runtime='jax'"
        )
    library = cache_folder() / f"engine-{_fingerprint(compiler)}.so"
    if not library.is_file():
        _compile(compiler, library)
    return library


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    sources = [path.read_bytes() for path in sorted(SOURCES.glob("*.h")) + sorted(SOURCES.glob("*.cpp"))]
    digest = hashlib.blake2b(digest_size=8)
    for part in (
        compiler.encode(),
        version.encode(),
        processor().encode(),
        " ".join(COMPILE + LINK).encode(),
        *sources,
    ):
        digest.update(hashlib.blake2b(part).digest())
    return digest.hexdigest()


def _compile(compiler: str, library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            compiled, made = Path(folder) / "engine.o", Path(folder) / library.name
            _run(compiler, *COMPILE, str(SOURCES / "engine.cpp"), "-o", str(compiled))
            _run(compiler, *LINK, str(compiled), "-o", str(made))
            os.replace(made, library)  # another process may be doing the same
    except OSError as error:
        raise UserError(f"the native engine cannot be written to {library.parent}: {error.strerror}") from error


def _run(compiler: str, *arguments: str) -> None:
    result = subprocess.run([compiler, *arguments], capture_output=True, text=True)
    if result.returncode:
        reason = one_line(result.stderr or f"exit code {result.returncode}", limit=300)
        raise UserError(f"{compiler} cannot compile the native engine: {reason}; name another one as $CXX")
