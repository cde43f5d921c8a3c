"""The answer of `dynet compile-tpu` and `compile-gpu` as a table: does it fit, what bounds it, what is exchanged."""

from collections.abc import Iterator, Sequence

from dynet_jax.analysis.table import Table
from dynet_jax.compiled.machine import Machine
from dynet_jax.compiled.program import CompiledProgram
from dynet_jax.compiled.roofline import Estimate, estimate
from dynet_jax.compiled.steps import Steps

UNKNOWN = "?: how long the Pallas kernels take is not known; such a step counts computing, memory and exchanges alone."


def report(names: Sequence[str], results: Sequence[Steps], machine: Machine) -> str:
    """One column per configuration; of two, the ratio of the first to the second too."""
    columns = [dict(facts(steps, machine)) for steps in results]
    header = ("", *names, *(["ratio"] if len(columns) == 2 else []))
    rows = []
    for label in columns[0]:
        values = [column[label] for column in columns]
        ratio = []
        if len(values) == 2:
            first, second = (value if isinstance(value, float) else 0.0 for value in values)
            ratio = [f"{first / second:.2f}" if min(first, second) > 0 else ""]
        rows.append((label, *map(_text, values), *ratio))
    table = Table(header, rows).markdown()
    unknown = any(times.kernels is None for times in _estimates(results, machine))
    return f"{table}\n\n{UNKNOWN}" if unknown else table


def facts(steps: Steps, machine: Machine) -> Iterator[tuple[str, float | str]]:
    """Yields the lines of a report: a name and a value. GB are 10^9 bytes, of one device where nothing else is said."""
    yield "devices, hosts", f"{machine.devices} {machine.kind}, {steps.hosts}"
    yield "batch; images at once on a device", f"{steps.batch_size}; {steps.images_per_device}"
    for name, program in (("training", steps.training), ("evaluation", steps.evaluation)):
        times = estimate(program, machine)
        yield f"{name}: memory (GB)", program.memory / 1e9
        yield f"{name}: memory (% of the device's)", 100 * program.memory / machine.memory_bytes
        yield f"{name}: temporaries (GB)", program.temporaries / 1e9
        yield f"{name}: operations (GFLOP)", program.flops / 1e9
        yield f"{name}: bytes moved (GB)", program.bytes / 1e9
        yield f"{name}: exchanges", _exchanges(program)
        if program is steps.training:
            yield f"{name}: gradients (MB)", steps.gradients / 1e6
        yield f"{name}: Pallas kernels called", str(program.kernels)
        if not machine.has_schedule:
            yield f"{name}: calls of libraries", _calls(program)
        yield f"{name}: at the peak of computing (ms)", 1e3 * times.compute
        yield f"{name}: at the peak of memory (ms)", 1e3 * times.memory
        if machine.has_schedule:
            schedule = _unknown(program) if times.schedule is None else 1e3 * times.schedule
            yield f"{name}: the compiler's schedule (ms)", schedule
            yield f"{name}: of it Pallas kernels (ms)", _kernels(program, times)
        yield f"{name}: exchanges (ms)", 1e3 * times.exchange
        yield f"{name}: step, at best (ms)", _marked(1e3 * times.step, times)
        yield f"{name}: bound by", times.bound
        yield f"{name}: images/s of all devices, at best", _marked(steps.batch_size / times.step, times)
        yield f"{name}: compiled in (s)", program.seconds_to_compile


def _estimates(results: Sequence[Steps], machine: Machine) -> Iterator[Estimate]:
    return (estimate(program, machine) for steps in results for program in (steps.training, steps.evaluation))


def _exchanges(program: CompiledProgram) -> str:
    kinds = program.collectives_by_kind.items()
    return ", ".join(f"{number} {kind} of {size / 1e6:.2f} MB" for kind, (number, size) in kinds) or "none"


def _calls(program: CompiledProgram) -> str:
    return ", ".join(f"{number} {name}" for name, number in program.library_calls) or "none"


def _kernels(program: CompiledProgram, times: Estimate) -> float | str:
    if times.kernels is None:
        return _unknown(program)
    return "-" if times.schedule is None else 1e3 * times.kernels


def _unknown(program: CompiledProgram) -> str:
    """A kernel's cycles that should be known and are not; or a chip whose clock is not published."""
    return "?" if program.kernel_cycles is None else "-"


def _marked(value: float, times: Estimate) -> float | str:
    """Returns the value, with a "?" if the time of Pallas kernels is not known: it cannot be compared with others."""
    return f"{_text(value)}?" if times.kernels is None else value


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
