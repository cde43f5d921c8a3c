"""Operations that are independent between images, said so to the partitioner of a plain `jax.jit`.

Inside `jax.shard_map` a device has its own images. Under `jax.jit` with sharded arguments a partitioner splits what is
written for the whole batch, and it gathers the batch where it cannot see that images are independent: at loops over
images, and at kernels that are not XLA's.
"""

import contextvars
import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_decided: contextvars.ContextVar[bool] = contextvars.ContextVar("decided", default=False)


def over_images(function: Callable, in_axes: Sequence[int | None], out_axes) -> Callable:
    """Returns the function with the images of a batch spread over the devices of the mesh that its operands are on.

    The mesh is that of the operands' types, which arguments of `jax.jit` have if they are committed to a
    `jax.sharding.NamedSharding`, or that of `jax.set_mesh`. Images are spread over its axes in the partitioner's hand,
    as far as their sizes divide the batch. Without such a mesh, and outside of `jax.jit`, nothing changes.

    Args:
      function: of arrays or pytrees of arrays, independent between images.
      in_axes, out_axes: the axis of images of each operand and result, as in `jax.vmap`; None for an operand that all
        images share.

    >>> import jax.numpy as jnp
    >>> over_images(jnp.add, (0, None), 0)(jnp.ones((2, 3)), jnp.ones(3)).shape
    (2, 3)
    """

    def once(*operands):
        token = _decided.set(True)
        try:
            return function(*operands)
        finally:
            _decided.reset(token)

    def call(*operands):
        image, axis = next((jax.tree.leaves(x)[0], axis) for x, axis in zip(operands, in_axes) if axis is not None)
        mesh = _mesh(*jax.tree.leaves(operands))
        axes = _dividing(_splitting_axes(mesh, image, axis), image.shape[axis])
        if not axes or _decided.get():
            return once(*operands)

        def spec(axis):
            names = axes if len(axes) > 1 else axes[0]
            return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, names)

        in_specs = tuple(map(spec, in_axes))
        if AxisType.Explicit in mesh.axis_types:  # JAX does not move such operands by itself
            operands = [jax.tree.map(lambda x, spec=spec: _placed(x, spec), x) for x, spec in zip(operands, in_specs)]
        free = {name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual}
        return jax.shard_map(
            once, mesh=mesh, in_specs=in_specs, out_specs=jax.tree.map(spec, out_axes), axis_names=free
        )(*operands)

    return call


def is_partitioned(x: jax.Array) -> bool:
    """Returns whether a partitioner may split the program in which x is computed."""
    return bool(_splitting_axes(_mesh(x), x, 0))


def _mesh(*arrays: jax.Array) -> jax.sharding.AbstractMesh:
    """Returns the mesh of the first array that has one, else the ambient one, which may be empty.

    It is empty, too, where an operand is a constant of the program that lies on a mesh, like the parameters of a
    function of images alone: the program may run on one device, and types do not tell.
    """
    meshes = [(isinstance(array, jax.core.Tracer), jax.typeof(array).sharding.mesh) for array in arrays]
    if not all(traced or mesh.empty for traced, mesh in meshes) or not any(traced for traced, _ in meshes):
        return jax.sharding.AbstractMesh((), ())
    return next((mesh for _, mesh in meshes if not mesh.empty), jax.sharding.get_abstract_mesh())


def _splitting_axes(mesh, image: jax.Array, axis: int) -> dict[str, int]:
    """Returns the mesh axes, with their sizes, over which a partitioner may spread an axis of an array."""
    explicit = _names(jax.typeof(image).sharding.spec[axis])
    kinds = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types)
    return {name: size for name, size, kind in kinds if size > 1 and (kind == AxisType.Auto or name in explicit)}


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Returns x, spread over the explicit axes of its mesh as a specification says."""
    sharding = jax.typeof(x).sharding
    explicit = {n for n, kind in zip(sharding.mesh.axis_names, sharding.mesh.axis_types) if kind == AxisType.Explicit}
    wanted = [tuple(name for name in _names(names) if name in explicit) for names in (*spec, *(None,) * x.ndim)]
    if wanted[: x.ndim] == [_names(names) for names in sharding.spec]:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*wanted[: x.ndim])))


def _names(names) -> tuple[str, ...]:
    """Returns the mesh axes of one entry of a PartitionSpec."""
    return names if isinstance(names, tuple) else () if names is None else (names,)


def _dividing(axes: dict[str, int], batch) -> tuple[str, ...]:
    """Returns the axes over which a batch can be spread evenly, taken in their order."""
    taken: tuple[str, ...] = ()
    for name, size in axes.items():
        if isinstance(batch, int) and batch % (size * math.prod(axes[other] for other in taken)) == 0:
            taken += (name,)
    return taken
