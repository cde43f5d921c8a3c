"""How long a step would take, from the counts of its program and the peaks of the devices."""

from typing import NamedTuple

from dynet_jax.compiled.machine import Machine
from dynet_jax.compiled.program import CompiledProgram


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
        """Returns the resource that limits the speed."""
        names = {"compute": self.compute, "memory": self.memory, "exchange": self.exchange}
        names["schedule"] = self.schedule or 0.0
        return max(names, key=names.__getitem__)


def estimate(program: CompiledProgram, machine: Machine) -> Estimate:
    """Returns the roofline of a program compiled for the machine."""
    clock, rounds, schedule = machine.clock, program.rounds, None
    if clock and program.cycles and program.kernel_cycles is not None:
        schedule = rounds * (program.cycles + program.kernel_cycles) / clock
    return Estimate(
        compute=rounds * program.flops / machine.flops,
        memory=rounds * program.bytes / machine.memory_bandwidth,
        schedule=schedule,
        kernels=_kernels(program, clock),
        exchange=sum(machine.exchange(collective) for collective in program.collectives),
    )


def _kernels(program: CompiledProgram, clock: float | None) -> float | None:
    if program.kernel_cycles == 0:
        return 0.0
    return program.rounds * program.kernel_cycles / clock if clock and program.kernel_cycles is not None else None
