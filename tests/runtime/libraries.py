"""The C library as CMake builds and installs it, once for all tests that need it."""

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "dynet_runtime"
QUICK = ("-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DCMAKE_BUILD_TYPE=Release")  # six levels at -O3 take minutes

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
ARM_COMPILER = "aarch64-linux-gnu-g++"
needs_arm = pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which("qemu-aarch64")),
    reason="g++-aarch64-linux-gnu and qemu-user are not installed",
)


def run(*command: object, **options) -> str:
    """Returns what a command prints; fails with what it says otherwise."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1200, **options)
    assert result.returncode == 0, f"{command}: {result.stdout[-1000:]}{result.stderr[-3000:]}"
    return result.stdout


@functools.cache
def installed(kind: str, *options: str) -> Path:
    """Returns a folder where the library is installed; processes of one test run share it."""
    run_of_tests = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    shared = Path(tempfile.gettempdir()) / f"dynet-tests-{os.getuid()}-{run_of_tests}"
    shared.mkdir(exist_ok=True)
    prefix = shared / kind / "prefix"
    with open(shared / f"{kind}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prefix.is_dir():
            build = shared / kind / "build"
            run("cmake", "-S", SOURCE, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", *QUICK, *options)
            run("cmake", "--build", build, "--parallel", len(os.sched_getaffinity(0)))
            run("cmake", "--install", build)
    return prefix


def every_level() -> Path:
    """Returns where the library with all levels of this architecture is installed."""
    return installed("levels")


def for_arm() -> Path:
    """Returns where the library for ARM64 is installed, as a static one."""
    compilers = ("-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc", f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}")
    without = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("JPEG", "PNG")]
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    return installed("arm", *system, *compilers, *without, "-DBUILD_SHARED_LIBS=OFF")
