"""Devices of TPU slices that are not there: programs can be compiled for them by libtpu."""

import os

import jax

from dynet_jax.errors import UserError, one_line
from dynet_jax.tpu.chips import Slice


def slice_devices(slice: Slice) -> list:
    """Returns the slice's devices, for which programs can be compiled but not run.

    Raises UserError without libtpu, or for a shape that it does not know.
    """
    # What a machine of such a slice would find in its environment; the compiler asks for it, and would else look for
    # such a machine on the network.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", slice.chip.accelerator_type)
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is held: others may compile at the same time
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TPU programs are compiled by libtpu, which is not installed; `make env-tpu` makes an environment with it: "
            ".venv-tpu/bin/dynet compile-tpu ..."
        ) from error
    from jax.experimental import topologies

    # A host has four chips unless something else is said: a single chip is no part of one then, and eight are two.
    options = {"chips_per_host_bounds": (*slice.host_shape, 1, 1)[:3]} if slice.host_shape else {}
    options |= {"chip_config_name": slice.chip.configuration} if slice.chip.configuration else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=slice.name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"{slice.name} is not a slice that libtpu knows: {one_line(error)}") from error
