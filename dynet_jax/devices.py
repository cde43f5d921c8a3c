"""Devices: the mesh, the sharding of a batch, and the placement of BatchNorm's groups."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dynet_jax.errors import UserError

AXES = ("data", "bn")
BATCH = PartitionSpec(AXES)
REPLICATED = PartitionSpec()


class Layout(NamedTuple):
    """A mesh of all devices, [groups of devices, devices per BatchNorm group], and the size of a micro-batch."""

    mesh: Mesh
    micro_batch: int  # examples per device and forward pass
    bn_axis_name: str | None  # the axis over which a BatchNorm group is sharded if a device holds less than one

    @property
    def batch_sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, BATCH)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, REPLICATED)

    def replicated_shapes(self, arrays: Any) -> Any:
        """Returns the shapes and types of a tree of arrays or shapes, as of arrays that are on every device."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.replicated), arrays)


def make_layout(batch_size: int, bn_batch_size: int | None, accumulation_steps: int = 1, devices=None) -> Layout:
    """Returns a layout in which BatchNorm's groups are the same examples on any number of devices.

    The first axis of the mesh is plain data parallelism. The second is longer than 1 only if a device holds less than
    one group; the group's statistics are then averaged over that axis.

    Raises UserError if the batch, the devices, the accumulation and the groups do not divide one another.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    per_step = len(devices) * accumulation_steps
    if batch_size % per_step:
        raise UserError(
            f"batch_size={batch_size} must be a multiple of {per_step} ({len(devices)} devices x accumulation_steps="
            f"{accumulation_steps}); {batch_size // per_step * per_step or per_step} is"
        )
    micro_batch = batch_size // per_step
    group = min(bn_batch_size or batch_size, batch_size)
    if micro_batch % group == 0:
        spread = 1
    elif accumulation_steps > 1:
        raise UserError(
            f"with accumulation_steps={accumulation_steps} a device sees {micro_batch} examples at a time, which do "
            f"not hold whole BatchNorm groups of {group}; use fewer accumulation_steps, or a bn_batch_size that "
            f"divides {micro_batch}"
        )
    elif group % micro_batch == 0 and batch_size % group == 0:
        spread = group // micro_batch
    else:
        raise UserError(
            f"bn_batch_size={group} does not fit: a device holds {micro_batch} of the batch_size={batch_size} "
            "examples, and one must be a multiple of the other and the batch a multiple of bn_batch_size"
        )
    mesh = Mesh(devices.reshape(-1, spread), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
    return Layout(mesh, micro_batch, "bn" if spread > 1 else None)


def to_devices(batch: dict[str, np.ndarray], layout: Layout) -> dict[str, jax.Array]:
    """Returns global arrays from this host's part of a batch, sharded over all devices of all hosts."""
    return {key: jax.make_array_from_process_local_data(layout.batch_sharding, value) for key, value in batch.items()}
