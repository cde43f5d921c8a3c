"""The kernels compiled for GPUs, in processes of their own, and what the assembler says of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dynet_jax.gpu.devices import has_compiler

LAYERS = {  # height and width, C_in, C_out, kernel size, groups, stride
    "grouped": (14, 96, 96, 3, 16, 1),
    "grouped_stride": (28, 36, 36, 3, 6, 2),
    "grouped_pairs": (28, 28, 28, 3, 14, 1),
    "grouped_sixteen": (14, 64, 64, 3, 4, 1),
    "pointwise": (14, 96, 162, 1, 1, 1),
    "dense": (14, 128, 256, 3, 1, 2),
    "dense_large_map": (28, 64, 64, 3, 1, 1),
}

MOST_SHARED = 48 * 2**10  # bytes that every card gives a block of threads
MOST_SPILLED = 8  # bytes of a thread: two registers
MORE_SPILLED = {("a100", "grouped_stride", "bfloat16"): 28}

CODE = """
import json, sys
import jax
from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.gpu.cards import parse_node
from dynet_jax.gpu.counts import count
from dynet_jax.gpu.devices import node_devices
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.ops.gpu.feature_map import DeferredMap

card, dtype, (size, c_in, c_out, kernel_size, groups, strides) = json.loads(sys.argv[1])
sharding = jax.sharding.SingleDeviceSharding(node_devices(parse_node(card))[0])
shape = lambda *sizes, dtype=dtype: jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)
affine = shape(8, c_in, dtype="float32")
x = DeferredMap(shape(8, size, size, c_in), affine, affine, "relu6")
bank, coefficients = shape(6, kernel_size, kernel_size, c_in // groups, c_out), shape(8, 6, c_out)

def both(*arrays):
    def layer(*arrays):
        y = dynamic_conv(*arrays, strides=strides, feature_group_count=groups)
        return y.x, y.sums
    y, vjp = jax.vjp(layer, *arrays)
    return y, vjp(y)

with tracing_for("gpu"), traced_kernels() as kernels:
    lowered = jax.jit(both).lower(x, bank, coefficients)
found = count(lowered.compile(), kernels)
print(json.dumps([found.kernels, found.flops]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="needs the compiler: make test-gpu-compiler"),
]


def assembled(folder: Path, architecture: str) -> dict[str, tuple[int, int, str]]:
    """Spilled bytes, shared memory and the program of every kernel of this package that was dumped, by its name."""
    import nvidia.cuda_nvcc

    ptxas, found = Path(next(iter(nvidia.cuda_nvcc.__path__))) / "bin/ptxas", {}
    [sequence] = folder.glob("*.thunk_sequence.txt")
    calls = re.findall(r"kCustomKernel .*\] (\w+) grid.* shared_memory: (\d+) bytes", sequence.read_text())
    shared = {name: int(size) for name, size in calls}
    for file in folder.glob("*.ptx"):
        program = file.read_text()
        if ".entry" not in program:  # constants alone
            continue
        command = [str(ptxas), "-v", f"-arch={architecture}", str(file), "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        for part in said.split("Compiling entry function '")[1:]:
            [spilled] = re.findall(r"(\d+) bytes spill stores", part)
            if re.match("(dense|grouped|pointwise)_conv", name := part.partition("'")[0]):
                found[name] = int(spilled), shared[name], program
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("card", "architecture", "unit"), [("h100", "sm_90a", "wgmma"), ("a100", "sm_80", "mma.sync")])
def test_kernels_keep_what_they_work_on_in_registers(card, architecture, unit, name, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", "1")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path}")
    command = [sys.executable, "-c", CODE, json.dumps([card, dtype, LAYERS[name]])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-2000:]
    kernels, flops = json.loads(result.stdout.splitlines()[-1])
    size, _, c_out, kernel_size, groups, strides = LAYERS[name]
    convolution = 2 * 8 * (size // strides) ** 2 * c_out * kernel_size**2 * LAYERS[name][1] // groups
    assert kernels == (2 if name.startswith("grouped") else 3)
    assert flops >= 3 * convolution  # and the fusion's
    found = assembled(tmp_path, architecture)
    assert len(found) == kernels
    for spilled, shared, program in found.values():
        assert unit in program
        assert spilled <= MORE_SPILLED.get((card, name, dtype), MOST_SPILLED)
        assert shared <= MOST_SHARED
