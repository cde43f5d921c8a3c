"""TPU chips as they are published, and slices of them."""

import math
from typing import NamedTuple

from dynet_jax.compiled.program import Collective
from dynet_jax.errors import UserError

HOP_SECONDS = 1e-6  # assumed time from chip to chip, which is what small sums cost


class Chip(NamedTuple):
    """Peaks of one chip. Source: the "Key specifications" of docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}."""

    flops: float  # bfloat16 operations per second
    hbm_bytes: float
    hbm_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second, one way, of one of the two links of an axis of the torus
    axes: int  # of the torus
    wraps_at: int  # an axis is a ring if its length is a multiple of this; in three dimensions all have to be
    clock: float | None  # cycles per second: flops / (2 x matrix units x their size); None where that is not published
    accelerator_type: str  # what Cloud TPU calls a small slice of it
    host_shape: tuple[int, ...] = (2, 2)  # of the largest slice that is a single host
    configuration: str | None = None  # what libtpu calls a chip that is one device, where that is not its default


GB, TFLOPS, GHZ = 1e9, 1e12, 1e9

# The link's bandwidth is the published one of the chip (both ways) / 2 / its links; v4: all-reduce bandwidth per pod
# (1.1 PB/s) / 4096 chips / 6 links.
CHIPS = {
    "v4": Chip(275 * TFLOPS, 32 * 2**30, 1200 * GB, 45 * GB, 3, 4, 1.05 * GHZ, "v4-8", (2, 2, 1), "megacore"),
    "v5e": Chip(197 * TFLOPS, 16 * GB, 819 * GB, 50 * GB, 2, 16, 1.5 * GHZ, "v5litepod-4", (2, 4)),
    "v5p": Chip(459 * TFLOPS, 95 * GB, 2765 * GB, 100 * GB, 3, 4, 1.75 * GHZ, "v5p-8", (2, 2, 1)),
    "v6e": Chip(918 * TFLOPS, 32 * GB, 1638 * GB, 100 * GB, 2, 16, None, "v6e-4", (2, 4)),
}


class Slice(NamedTuple):
    """Chips in a grid; a `dynet_jax.compiled.machine.Machine`."""

    name: str  # like v5e:16x16
    chip: Chip
    shape: tuple[int, ...]

    has_schedule = True
    kind = property(lambda self: self.name.partition(":")[0])
    devices = property(lambda self: self.chips)
    flops = property(lambda self: self.chip.flops)
    memory_bytes = property(lambda self: self.chip.hbm_bytes)
    memory_bandwidth = property(lambda self: self.chip.hbm_bandwidth)
    clock = property(lambda self: self.chip.clock)

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def host_shape(self) -> tuple[int, ...] | None:
        """Returns the shape of one host's chips if it has the whole slice; None where the compiler knows: 2x2."""
        return self.shape if self.chips == 1 or self.shape == self.chip.host_shape else None

    @property
    def all_reduce_bandwidth(self) -> float:
        """Bytes per second that a chip sends when all its links are busy: two of each ring, one of each open line."""
        rings = [length % self.chip.wraps_at == 0 for length in self.shape]
        if self.chip.axes == 3 and not all(rings):
            rings = [False] * 3
        links = sum(2 if ring else 1 for length, ring in zip(self.shape, rings) if length > 1)
        return links * self.chip.link_bandwidth

    @property
    def hops(self) -> int:
        """Returns the number of hops between the two chips that are farthest from one another, along open lines."""
        return sum(length - 1 for length in self.shape)

    def exchange(self, collective: Collective) -> float:
        """Returns the seconds in which a device sends its part; the first byte has to go all the way.

        Groups smaller than the slice are neighbours: they are taken as one line of chips.
        """
        count = collective.participants
        if count == 1:
            return 0.0
        if collective.kind == "collective-permute":  # from neighbour to neighbour
            return collective.bytes / self.chip.link_bandwidth + HOP_SECONDS
        everyone = count == self.chips
        bandwidth = self.all_reduce_bandwidth if everyone else self.chip.link_bandwidth
        hops = self.hops if everyone else count - 1
        return collective.ring_bytes / bandwidth + collective.passes * hops * HOP_SECONDS


def parse_topology(text: str) -> Slice:
    """'v5e:16x16' -> a slice.

    Raises UserError for an unknown chip, or a shape that is not one of its grids.

    >>> parse_topology("v5e:16x16").chips
    256
    """
    kind, _, shape = text.partition(":")
    if kind not in CHIPS:
        raise UserError(f"unknown TPU {kind!r}; choose from: {', '.join(CHIPS)}, and write it like v5e:16x16")
    chip = CHIPS[kind]
    example = "x".join(["2"] * chip.axes)
    try:
        sizes = tuple(int(size) for size in shape.split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != chip.axes or min(sizes, default=0) < 1:
        raise UserError(f"{text!r} is not a topology: a {kind} slice has {chip.axes} axes, like {kind}:{example}")
    return Slice(text, chip, sizes)
