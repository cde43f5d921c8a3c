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
from dynet_jax.ops.backend import tracing_for
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.compiler import slice_devices

(size, c_in, members, c_out, strides, batch), kernel_size, topology = *map(json.loads, sys.argv[1:3]), sys.argv[3]
device = slice_devices(parse_topology(topology))[0]
sharding = jax.sharding.SingleDeviceSharding(device)
shapes = (batch, size, size, c_in), (6, *kernel_size, members, c_out), (batch, 6, c_out)
arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]

def moved(fusion):
    def gradients(*arrays):
        conv = lambda *a: dynamic_conv(*a, strides=strides, feature_group_count=c_in // members, fusion=fusion)
        y, vjp = jax.vjp(conv, *arrays)
        return y, vjp(y)
    with tracing_for("tpu", device.device_kind):
        return jax.jit(gradients).lower(*arguments).compile().cost_analysis()["bytes accessed"]

print(json.dumps([moved("auto"), moved("feature")]))
"""


def needs_libtpu(test):
    missing = importlib.util.find_spec("libtpu") is None
    return pytest.mark.slow(pytest.mark.skipif(missing, reason="needs libtpu: make test-tpu")(test))


def moved(layer, topology, kernel_size=(3, 3)):
    """Bytes of a forward and backward pass: by 'auto', and by fusing feature maps.

    layer: (height and width, C_in, C_in / groups, C_out, strides, batch).
    """
    command = [sys.executable, "-c", CODE, json.dumps(layer), json.dumps(kernel_size), topology]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])
