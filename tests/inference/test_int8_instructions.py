"""Int8 arithmetic as processors without this one's instructions have it: the engine compiled without them."""

import shutil
import subprocess

import numpy as np
import pytest

from dynet_runtime import build, library, model
from tests.inference.networks import network
from tests.inference.operations import one_convolution
from tests.inference.test_int8 import check, in_int8, program_of_groups
from tests.inference.test_programs import needs_compiler

WITHOUT = {
    "vnni": ["-mno-amx-int8"],
    "avx512": ["-mno-amx-int8", "-mno-avx512vnni", "-mno-avxvnni"],
    "avx_vnni": ["-mno-avx512f"],
    "avx2": ["-mno-avx512f", "-mno-avxvnni"],
    "any": ["-mno-avx"],
}


def macros(flags):
    command = [build._compiler()[0], "-march=native", *flags, "-dM", "-E", "-x", "c++", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture
def without(request, monkeypatch, tmp_path):
    """The engine without some instructions; skipped where the processor or the compiler has not these."""
    flags = WITHOUT[request.param]
    if shutil.which(build._compiler()[0]) is None or macros(flags) in ("", macros([])):
        pytest.skip("this processor has no such instructions to do without")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", " ".join([build._compiler()[0], *flags]))
    monkeypatch.setattr(build, "COMPILE", tuple("-O1" if flag == "-O3" else flag for flag in build.COMPILE))
    monkeypatch.setattr(library, "build", build.build.__wrapped__)
    loaded = library.load_library.__wrapped__()
    monkeypatch.setattr(model, "load_library", lambda: loaded)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("without", WITHOUT, indirect=True)
def test_values(without):
    for dynamic in (False, True):
        check(program_of_groups(18, 18, 3, dynamic))
        check(program_of_groups(10, 10, 10, dynamic))
        check(one_convolution(dynamic, "numbers", outputs=70, activation="hard_swish"))
    for storage in ("float32", "int8"):
        logits, wanted = in_int8(network("dy_mobile")[2], (1, 65, 96), storage=storage)
        assert np.abs(logits - wanted).max() <= 0.1 * np.abs(wanted).max()
