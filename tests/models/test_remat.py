"""Blocks that are recomputed in the backward pass need less memory and change nothing else."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.smallest import random_variables, shallow, smallest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_mobile", "dy_shuffle", "mobilenet_v3_small"])
def test_gradients_and_statistics_are_the_same(name):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    variables = random_variables(shallow(smallest(name, small_input=True)), size=32)

    def gradients(remat):
        model = shallow(smallest(name, small_input=True, remat=remat))

        def loss(params):
            both = {**variables, "params": params}
            logits, updated = model.apply(both, images, train=True, mutable=["batch_stats"])
            return jnp.mean(logits**2), updated

        program = jax.jit(jax.grad(loss, has_aux=True))
        return program(variables["params"]), str(jax.make_jaxpr(program)(variables["params"]))

    (actual, program), (expected, plain) = gradients(remat=True), gradients(remat=False)
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert program.count("remat") > plain.count("remat")  # large convolutions on a CPU have some of their own
