"""Layouts: which examples share BatchNorm's statistics must not depend on the devices."""

import jax
import pytest

from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError


@pytest.mark.parametrize(
    ("batch_size", "bn_batch_size", "accumulation_steps", "mesh", "micro_batch", "axis"),
    [
        (2048, 64, 1, (8, 1), 256, None),
        (2048, 64, 4, (8, 1), 64, None),
        (256, 64, 1, (4, 2), 32, "bn"),
        (64, 64, 1, (1, 8), 8, "bn"),
        (64, None, 1, (1, 8), 8, "bn"),
        (16, 64, 1, (1, 8), 2, "bn"),  # a batch smaller than a group is one group
    ],
)
def test_layout(batch_size, bn_batch_size, accumulation_steps, mesh, micro_batch, axis):
    layout = make_layout(batch_size, bn_batch_size, accumulation_steps)
    assert tuple(layout.mesh.shape.values()) == mesh
    assert (layout.micro_batch, layout.bn_axis_name) == (micro_batch, axis)


@pytest.mark.parametrize(
    ("batch_size", "bn_batch_size", "accumulation_steps", "message"),
    [
        (100, 64, 1, "multiple of 8 .* 96 is"),
        (2048, 96, 1, "bn_batch_size=96 does not fit"),
        (256, 64, 2, "do not hold whole BatchNorm groups"),
        (256, None, 2, "do not hold whole BatchNorm groups"),
    ],
)
def test_what_does_not_divide_is_said(batch_size, bn_batch_size, accumulation_steps, message):
    with pytest.raises(UserError, match=message):
        make_layout(batch_size, bn_batch_size, accumulation_steps)


def test_neighbouring_examples_share_a_group():
    """Device d holds the d-th part of the batch, and a group is a run of neighbouring devices."""
    layout = make_layout(64, 16)
    assert tuple(layout.mesh.shape.values()) == (4, 2)
    assert [d.id for d in layout.mesh.devices.flat] == [d.id for d in jax.devices()]
