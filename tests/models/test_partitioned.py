"""Networks under a plain `jit`, with a batch sharded over 8 devices, work without `shard_map` in user code."""

import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.models.smallest import random_variables, shallow, smallest
from tests.ops.tpu.compiled import needs_libtpu

COLLECTIVES = (
    r"\b(all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)
# Of blocks, predictors and heads: others would repeat how their parts are spread over devices.
EVERY_KIND = (
    *("dy_mobile", "dy_shuffle", "dy_resnet18", "dy_resnet50", "dy_mobilenet_v3_small", "condconv_resnet18"),
    *("dy_cnn_mobilenet_v2", "shufflenet_v2", "fcn_dy_mobile"),
)


def training(model):
    """Logits, statistics and gradients."""

    def loss(params, batch_stats, images):
        y, updates = model.apply({"params": params, "batch_stats": batch_stats}, images, train=True, mutable=True)
        return jnp.mean(jnp.sin(jax.tree.leaves(y)[0])), (y, updates["batch_stats"])

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_KIND)
def test_training_under_a_plain_jit(name):
    options = {} if name.startswith("fcn_") else {"small_input": True}
    model = smallest(name, bn_batch_size=4, **options)
    model = shallow(model)
    variables = random_variables(model, size=32)
    images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
    step, arguments = training(model), (variables["params"], variables["batch_stats"], images)
    expected = step(*arguments)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    arguments = [jax.device_put(a, s) for a, s in zip(arguments, (everywhere, everywhere, spread))]
    compiled = step.lower(*arguments).compile()
    assert set(re.findall(COLLECTIVES, compiled.as_text())) == {"all-reduce"}
    gradients, results = compiled(*arguments)
    chex.assert_trees_all_close(results, expected[1], rtol=1e-3, atol=1e-4)
    pairs = list(zip(*map(jax.tree.leaves, (gradients, expected[0]))))
    largest = max(jnp.linalg.norm(theirs) for _, theirs in pairs)
    for ours, theirs in pairs:  # by their norms: a rounding turns one of thousands of ReLUs on or off
        assert jnp.linalg.norm(ours - theirs) < 0.05 * jnp.linalg.norm(theirs) + 1e-4 * largest


COMPILED = """
import re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from dynet_jax.ops.backend import tracing_for
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.devices import slice_devices
from tests.models.smallest import shallow, smallest
from tests.models.test_partitioned import COLLECTIVES, training

devices = slice_devices(parse_topology("v5e:2x4"))
mesh = Mesh(np.array(devices), ("data",))
model = shallow(smallest(sys.argv[1], small_input=True, bn_batch_size=64))
shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
def on_mesh(shapes, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes)
images = on_mesh(jax.ShapeDtypeStruct((512, 32, 32, 3), jnp.float32), P("data"))
with tracing_for("tpu", devices[0].device_kind):
    lowered = training(model).lower(on_mesh(shapes["params"], P()), on_mesh(shapes["batch_stats"], P()), images)
text = lowered.compile().as_text()
print(text.count('custom_call_target="tpu_custom_call"'), *sorted(set(re.findall(COLLECTIVES, text))))
"""


@needs_libtpu
@pytest.mark.parametrize("name", ["dy_mobile", "dy_shuffle", "dy_resnet18"])
def test_tpus_run_their_kernels_under_a_plain_jit(name):
    """All that travels are sums, and the kernels are there."""
    result = subprocess.run([sys.executable, "-c", COMPILED, name], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-2000:]
    kernels, *collectives = result.stdout.splitlines()[-1].split()
    assert int(kernels) > 10
    assert collectives == ["all-reduce"]
