"""Layers compiled for TPUs, in processes of their own: libtpu beside the tests' CPU devices prints errors."""

import importlib.util
import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
import jax, jax.numpy as jnp
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.tpu.feature_map import DeferredMap
from dynet_jax.ops.backend import tracing_for
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.devices import slice_devices

layer, topology, kernel_size, dtype, normalizing, fusions = json.loads(sys.argv[1])
size, c_in, members, c_out, strides, batch = layer
device = slice_devices(parse_topology(topology))[0]
sharding = jax.sharding.SingleDeviceSharding(device)
shapes = (batch, size, size, c_in), (6, *kernel_size, members, c_out), (batch, 6, c_out)
x, *others = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in shapes]
if normalizing:
    affine = jax.ShapeDtypeStruct((batch, c_in), "float32", sharding=sharding)
    x = DeferredMap(x, affine, affine, "relu6")
options = dict(strides=strides, feature_group_count=c_in // members)

def moved(fusion):
    def gradients(*arrays):
        y, vjp = jax.vjp(lambda *a: dynamic_conv(*a, fusion=fusion, **options), *arrays)
        return y, vjp(y)
    with tracing_for("tpu", device.device_kind):
        return jax.jit(gradients).lower(x, *others).compile().cost_analysis()["bytes accessed"]

print(json.dumps([moved(fusion) for fusion in fusions]))
"""


def needs_libtpu(test):
    missing = importlib.util.find_spec("libtpu") is None
    return pytest.mark.slow(pytest.mark.skipif(missing, reason="needs libtpu: make test-tpu")(test))


def bytes_of(layer, topology, kernel_size, dtype="bfloat16", normalizing=False, fusions=("auto",)):
    """That a forward and backward pass moves, by each way of fusing.

    layer: (height and width, C_in, C_in / groups, C_out, strides, batch).
    """
    arguments = json.dumps([layer, topology, kernel_size, dtype, normalizing, fusions])
    command = [sys.executable, "-c", CODE, arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def moved(layer, topology, kernel_size=(3, 3)):
    """Bytes by 'auto', and by fusing feature maps."""
    return bytes_of(layer, topology, kernel_size, fusions=("auto", "feature"))
