"""GPUs as they are published, and nodes of them."""

from typing import NamedTuple

from dynet_jax.compiled.program import Collective
from dynet_jax.errors import UserError, suggest

GB, TFLOPS, KIB, MIB = 1e9, 1e12, 2**10, 2**20
HOP_SECONDS = 1e-6  # assumed time from card to card, which is what small sums cost
MOST_DEVICES = 8  # of a node


class Card(NamedTuple):
    """One GPU: peaks, and the limits that the compiler asks for.

    Sources: NVIDIA's data sheets (peaks without sparsity, links), the CUDA C++ programming guide's table of compute
    capabilities (threads, shared memory), and for A100, H100, H200 and B200 `xla/backends/gpu/target_config/specs` of
    openxla/xla, which XLA's authors read from the cards (cores, clocks, caches, memory).
    """

    title: str  # as `jax.Device.device_kind` says it
    capability: tuple[int, int]
    flops: float  # bfloat16 operations per second of the matrix units
    memory_bytes: int
    memory_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second that a card sends to the others of its node
    cores: int  # multiprocessors
    units_per_core: int  # float32 units
    clock_ghz: float
    cache_bytes: int  # L2
    shared_bytes: int  # of a core
    block_shared_bytes: int  # that one thread block may have
    threads_per_core: int = 2048


CARDS = {
    "a100": Card(
        *("NVIDIA A100-SXM4-80GB", (8, 0), 312 * TFLOPS, 85100068864, 2039.04 * GB, 300 * GB),
        *(108, 64, 1.41, 40 * MIB, 164 * KIB, 163 * KIB),
    ),
    "h100": Card(
        *("NVIDIA H100 80GB HBM3", (9, 0), 989.4 * TFLOPS, 84942979072, 3352.32 * GB, 450 * GB),
        *(132, 128, 1.98, 50 * MIB, 228 * KIB, 227 * KIB),
    ),
    "h200": Card(
        *("NVIDIA H200", (9, 0), 989.4 * TFLOPS, 151397597184, 4800 * GB, 450 * GB),
        *(132, 128, 1.98, 50 * MIB, 228 * KIB, 227 * KIB),
    ),
    "l4": Card(
        *("NVIDIA L4", (8, 9), 121 * TFLOPS, 24 * 10**9, 300 * GB, 32 * GB),  # PCI Express, 16 lanes of generation 4
        *(58, 128, 2.04, 48 * MIB, 100 * KIB, 99 * KIB, 1536),
    ),
    "b200": Card(
        *("NVIDIA B200", (10, 0), 2250 * TFLOPS, 191514411008, 7672.32 * GB, 900 * GB),
        *(148, 128, 1.965, 132644864, 228 * KIB, 227 * KIB),
    ),
}


class Node(NamedTuple):
    """Cards of one kind in one machine; a `dynet_jax.compiled.machine.Machine`."""

    kind: str  # a key of `CARDS`
    devices: int

    has_schedule = False  # the compiler estimates no time that could be asked for
    clock = None
    card = property(lambda self: CARDS[self.kind])
    name = property(lambda self: f"{self.devices} {self.kind}")
    flops = property(lambda self: self.card.flops)
    memory_bytes = property(lambda self: self.card.memory_bytes)
    memory_bandwidth = property(lambda self: self.card.memory_bandwidth)

    def exchange(self, collective: Collective) -> float:
        """Returns the seconds of an exchange as a ring through what connects the cards."""
        if collective.participants == 1:
            return 0.0
        hops = collective.passes * (collective.participants - 1)
        return collective.ring_bytes / self.card.link_bandwidth + hops * HOP_SECONDS


def parse_node(kind: str, devices: int = 1) -> Node:
    """'h100', 8 -> a node.

    Raises UserError for an unknown card, or a number of them that no node has.

    >>> parse_node("h100", 8).name
    '8 h100'
    """
    if kind not in CARDS:
        raise UserError(f"unknown GPU {kind!r}; {suggest(kind, list(CARDS))}")
    if not 1 <= devices <= MOST_DEVICES:
        raise UserError(f"--devices={devices}: a node has 1 to {MOST_DEVICES} GPUs")
    return Node(kind, devices)


def target_config(card: Card) -> str:
    """Returns what XLA's compiler has to know of a card, as the text of its `GpuTargetConfigProto`."""
    major, minor = card.capability
    feature = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""
gpu_device_info {{
  name: "{card.title}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {feature} }}
  core_count: {card.cores}
  fpus_per_core: {card.units_per_core}
  clock_rate_ghz: {card.clock_ghz}
  memory_bandwidth: {card.memory_bandwidth:.0f}
  device_memory_size: {card.memory_bytes}
  l2_cache_size: {card.cache_bytes}
  shared_memory_per_core: {card.shared_bytes}
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_block_optin: {card.block_shared_bytes}
  registers_per_core_limit: {64 * KIB}
  registers_per_block_limit: {64 * KIB}
  threads_per_core_limit: {card.threads_per_core}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{card.title}"
"""
