"""How long the Pallas kernels of a compiled program take: the compiler's summary of the program leaves them out.

The compiler dumps what it makes of a kernel only if it is asked before it starts, and it then dumps everything, which
takes ten times as long as compiling. So another process compiles the kernels alone.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from jax import export

from dynet_jax.compiled.traced import TracedKernel
from dynet_jax.measure.failures import Failure
from dynet_jax.measure.serve import serve
from dynet_jax.measure.worker import Worker
from dynet_jax.tpu.bundles import count_cycles
from dynet_jax.tpu.chips import Slice, parse_topology
from dynet_jax.tpu.devices import slice_devices

DUMP = "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
_CALL = re.compile(r"%([a-z0-9_]+)[\w.-]* = (.*?) custom-call\(.*operand_layout_constraints=\{(.*?)\}, [a-z_]+=")
_SHAPE = re.compile(r"[a-z0-9]+\[[0-9,]*\]")
_HLO_NAMES = {"bfloat16": "bf16", "float32": "f32"}


def find_kernels(hlo: str) -> list[str]:
    """Returns the calls of Pallas kernels in the text of a compiled program: name, operands and results.

    >>> find_kernels('%conv.2 = f32[2] custom-call(%a), custom_call_target="tpu_custom_call", '
    ...              'operand_layout_constraints={f32[2]{0:T(128)}, bf16[]}, metadata={}')
    ['conv(f32[2] bf16[] -> f32[2])']
    """
    calls = (line for line in hlo.splitlines() if 'custom_call_target="tpu_custom_call"' in line)
    found = []
    for match in map(_CALL.search, calls):
        results, operands = (_SHAPE.findall(match[number]) if match else [] for number in (2, 3))
        found.append(_key(match[1] if match else "?", operands, results))
    return found


def _key(name: str, operands: Iterable[str], results: Iterable[str]) -> str:
    return f"{name}({' '.join(operands)} -> {' '.join(results)})"


def _key_of(kernel: TracedKernel) -> str:
    shapes = (
        [f"{_HLO_NAMES.get(str(a.dtype), a.dtype)}[{','.join(map(str, a.shape))}]" for a in arrays]
        for arrays in (kernel.arrays, kernel.outputs)
    )
    return _key(str(kernel.name), *shapes)


def kernel_cycles(hlo: str, kernels: Iterable[TracedKernel], slice: Slice) -> int | None:
    """Returns the cycles of all Pallas kernels in a compiled program if nothing waits; None if they are not known.

    hlo: the text of the program. kernels: those found when it was traced (`dynet_jax.compiled.traced`).
    """
    calls = find_kernels(hlo)
    programs = programs_by_call(kernels, calls)
    for call in calls:
        if call not in programs:
            return _left_out(f"{call} has not been traced")
    counted = _count([program for alike in programs.values() for program in alike], slice) if calls else iter(())
    if counted is None:
        return None
    total = 0
    for call, alike in programs.items():
        found = {next(counted) for _ in alike}
        if len(found) > 1:  # the text does not say which of them is called
            return _left_out(f"{call} stands for kernels of {' and '.join(map(str, sorted(found)))} cycles")
        total += calls.count(call) * found.pop()
    return total


def programs_by_call(kernels: Iterable[TracedKernel], calls: Iterable[str]) -> dict[str, list[bytes]]:
    """Returns the distinct kernels that a call may be of: of the same shapes, they may differ in padding or window."""
    found: dict[str, dict[bytes, None]] = {}
    for kernel in kernels:
        if (call := _key_of(kernel)) in calls:
            found.setdefault(call, {})[_export(kernel)] = None  # the same program is the same bytes
    return {call: list(programs) for call, programs in found.items()}


def _count(programs: list[bytes], slice: Slice) -> Iterator[int] | None:
    with tempfile.TemporaryDirectory(prefix="dynet-kernels-") as folder:
        for number, program in enumerate(programs):
            (Path(folder) / f"{number}.exported").write_bytes(program)
        flags = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {DUMP.format(folder)}"
        with Worker("dynet_jax.tpu.kernels", environment={"LIBTPU_INIT_ARGS": flags}) as worker:
            try:
                return iter(worker.ask({"folder": folder, "slice": slice.name}))
            except Failure as error:
                return _left_out(str(error))


def _left_out(why: str) -> None:
    print(f"kernels are left out of the schedule: {why}", file=sys.stderr)


def _export(kernel: TracedKernel) -> bytes:
    checks = [export.DisabledSafetyCheck.custom_call("tpu_custom_call")]
    exporter = export.export(jax.jit(kernel.program), platforms=["tpu"], disabled_checks=checks)
    return bytes(exporter(*kernel.arrays).serialize())


def _cycles_of_files(question: dict) -> list[int]:
    folder, slice = Path(question["folder"]), parse_topology(question["slice"])
    sharding = jax.sharding.SingleDeviceSharding(slice_devices(slice)[0])
    cycles = []
    for path in sorted(folder.glob("*.exported"), key=lambda path: int(path.stem)):
        kernel = export.deserialize(bytearray(path.read_bytes()))
        arrays = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval in kernel.in_avals]
        compiled = jax.jit(kernel.call).lower(*arrays).compile()
        [name] = re.findall(r"%(\S+) = [^\n]*custom_call_target=\"tpu_custom_call\"", compiled.as_text() or "")
        dumped = folder.glob(f"*-{name}-*-final_bundles.txt")
        newest = max(path for path in dumped if "schedule-analysis" not in path.name)  # names begin with the time
        cycles.append(count_cycles(newest.read_text()))
    return cycles


if __name__ == "__main__":
    serve(_cycles_of_files)
