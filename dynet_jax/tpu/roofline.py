"""How long a step would take, from the counts of its program and the peaks of the chip."""

from typing import NamedTuple

from dynet_jax.tpu.chips import Slice
from dynet_jax.tpu.program import CompiledProgram

HOP_SECONDS = 1e-6  # assumed time from chip to chip, which is what small sums cost


class Estimate(NamedTuple):
    """Seconds. A lower bound for a program as it is compiled: nothing waits, nothing overlaps with an exchange."""

    compute: float  # operations at the peak of the matrix units
    memory: float  # bytes at the peak of the memory
    schedule: float | None  # the compiler's own estimate in cycles, with Pallas kernels; None if a part is not known
    kernels: float | None  # the part of the schedule that Pallas kernels are; None if it is not known
    exchange: float  # collectives

    @property
    def step(self) -> float:
        """The longest of what happens at the same time, and then the exchange."""
        return max(self.compute, self.memory, self.schedule or 0.0) + self.exchange

    @property
    def bound(self) -> str:
        """What would have to be faster first."""
        names = {"compute": self.compute, "memory": self.memory, "exchange": self.exchange}
        names["schedule"] = self.schedule or 0.0
        return max(names, key=names.__getitem__)


def estimate(program: CompiledProgram, slice: Slice) -> Estimate:
    """The roofline of a program compiled for the slice."""
    chip, clock = slice.chip, slice.chip.clock
    rounds, schedule = program.rounds, None
    if clock and program.cycles and program.kernel_cycles is not None:
        schedule = rounds * (program.cycles + program.kernel_cycles) / clock
    return Estimate(
        compute=rounds * program.flops / chip.flops,
        memory=rounds * program.bytes / chip.hbm_bandwidth,
        schedule=schedule,
        kernels=_kernels(program, clock),
        exchange=sum(_exchange(collective, slice) for collective in program.collectives),
    )


def _kernels(program: CompiledProgram, clock: float | None) -> float | None:
    if program.kernel_cycles == 0:
        return 0.0
    return program.rounds * program.kernel_cycles / clock if clock and program.kernel_cycles is not None else None


def _exchange(collective, slice: Slice) -> float:
    """What a device sends through its links; and the first byte has to go all the way.

    Groups smaller than the slice are neighbours: they are taken as one line of chips.
    """
    count = collective.participants
    if count == 1:
        return 0.0
    if collective.kind == "collective-permute":  # from neighbour to neighbour
        return collective.bytes / slice.chip.link_bandwidth + HOP_SECONDS
    everyone = count == slice.chips
    bandwidth = slice.all_reduce_bandwidth if everyone else slice.chip.link_bandwidth
    hops = slice.hops if everyone else count - 1
    passes = 2 if collective.kind == "all-reduce" else 1  # a ring sends every byte to be summed, and then the sum
    whole = collective.bytes * (count if collective.kind == "reduce-scatter" else 1)  # its result is a part
    return passes * (whole * (count - 1) / count / bandwidth + hops * HOP_SECONDS)
