"""What a compiled program says of itself."""

import re
from collections import Counter
from typing import NamedTuple

from dynet_jax.compiled.hlo import bytes_of, shapes_in

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_INSTRUCTION = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<begun>-start)?\(")
_PASSED_ON = ("all-gather", "collective-permute")  # begun, they have their operands beside their results
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_GROUPS = re.compile(r"replica_groups=(?:\[(?P<rows>\d+),(?P<columns>\d+)\]|\{\{(?P<first>[0-9,]*)\})")


class Collective(NamedTuple):
    """An exchange between devices: its kind, the bytes of its result on one device, and how many take part."""

    kind: str
    bytes: int
    participants: int

    @property
    def passes(self) -> int:
        """Returns how often a ring sends every byte: to be summed, and then the sum."""
        return 2 if self.kind == "all-reduce" else 1

    @property
    def ring_bytes(self) -> float:
        """Returns what a device sends where all of them are one ring."""
        whole = self.bytes * (self.participants if self.kind == "reduce-scatter" else 1)  # its result is a part
        return self.passes * whole * (self.participants - 1) / self.participants


class Counts(NamedTuple):
    """The operations and bytes of a program."""

    flops: float
    bytes: float
    kernels: int  # calls of Pallas kernels
    library_calls: tuple[tuple[str, int], ...] = ()  # of cuDNN, cuBLAS and others, with how often


class CompiledProgram(NamedTuple):
    """One device's part of a compiled step. The compiler's own counts; `flops` are 2 per multiply-add."""

    flops: float
    bytes: float  # read and written by all instructions; some of it never leaves the chip's fast memory
    cycles: int  # its estimate, summed over its own instructions, without Pallas kernels; 0 if it gives none
    kernels: int  # calls of Pallas kernels; `bytes` has theirs by their own estimates
    kernel_cycles: int | None  # of all of them, by their bundles: nothing waits; None if that is not known
    arguments: int  # bytes, and so on
    outputs: int
    aliased: int
    temporaries: int
    code: int
    collectives: tuple[Collective, ...]
    seconds_to_compile: float
    library_calls: tuple[tuple[str, int], ...] = ()
    rounds: int = 1  # how often nearly all of it runs in a step: once per micro-batch; counts are of one

    @property
    def memory(self) -> int:
        """Bytes that must be there at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @property
    def collectives_by_kind(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of each kind."""
        numbers, sizes = Counter(), Counter()
        for collective in self.collectives:
            numbers[collective.kind] += 1
            sizes[collective.kind] += collective.bytes
        return {kind: (numbers[kind], sizes[kind]) for kind in numbers}


def read_program(
    compiled, seconds: float = 0.0, devices: int = 1, kernel_cycles: int | None = 0, counts: Counts | None = None
) -> CompiledProgram:
    """Returns the facts of a `jax.stages.Compiled` for a number of devices.

    counts: where its own cost analysis has none; by default that analysis, and the Pallas kernels of a TPU.
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if counts is None:
        cost = compiled.cost_analysis()
        kernels = text.count('custom_call_target="tpu_custom_call"')
        counts = Counts(cost.get("flops", 0.0), cost.get("bytes accessed", 0.0), kernels)
    return CompiledProgram(
        flops=counts.flops,
        bytes=counts.bytes,
        cycles=sum(int(cycles) for cycles in _CYCLES.findall(text)),
        kernels=counts.kernels,
        kernel_cycles=kernel_cycles,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        collectives=find_collectives(text, devices),
        seconds_to_compile=seconds,
        library_calls=counts.library_calls,
    )


def find_collectives(hlo: str, devices: int) -> tuple[Collective, ...]:
    """Returns all exchanges between devices in the text of a compiled program.

    >>> find_collectives("%sum = (f32[2,3]{1,0}, bf16[]) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}", devices=4)
    (Collective(kind='all-reduce', bytes=26, participants=2),)
    """
    found = []
    for line in hlo.splitlines():
        match = _INSTRUCTION.search(line)
        if match:
            shapes = shapes_in(match["shapes"])
            if match["begun"] and match["kind"] in _PASSED_ON:
                arrays = [shape for shape in shapes if shape != ("u32", ())]  # flags of the exchange
                shapes = arrays[len(arrays) // 2 :]
            found.append(Collective(match["kind"], sum(map(bytes_of, shapes)), _participants(line, devices)))
    return tuple(found)


def _participants(line: str, devices: int) -> int:
    match = _GROUPS.search(line)
    if match is None:
        return devices
    if match["columns"]:
        return int(match["columns"])
    return len(match["first"].split(",")) if match["first"] else devices
