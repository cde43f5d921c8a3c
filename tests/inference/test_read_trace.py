"""What is read of a traced network, and what is not."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.inference import program_of
from dynet_jax.inference.program import Convolution
from dynet_jax.inference.read_trace import Reader
from dynet_jax.layers import DynamicConv


def test_what_no_result_needs_is_not_read(monkeypatch):
    """A layer is in the trace whole and as what it is made of; only the former is read."""
    read = []
    original = Reader._equation
    monkeypatch.setattr(
        Reader, "_equation", lambda self, *rest: read.append(rest[0].primitive.name) or original(self, *rest)
    )

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            jnp.sort(x, axis=1)
            x = DynamicConv(6, (3, 3), name="dynamic")(x)
            return nn.Dense(3)(x.mean((1, 2)))

    program = program_of(Network(), Network().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))), 8)
    assert "dynamic" in [operation.name for operation in program.operations if isinstance(operation, Convolution)]
    assert "whole_operation" in read
    assert not {"sort", "conv_general_dilated", "logistic"}.intersection(read)
