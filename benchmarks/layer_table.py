"""The table of layers: every form of every layer, compiled, compared with the reference, and timed in turns."""

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from benchmarks.compiling import compile_all, split_failures
from benchmarks.console import progress, table_head, table_row
from benchmarks.forms import STATIC
from benchmarks.layers import (
    PASSES,
    Layer,
    largest_error,
    layer_function,
    layer_inputs,
    layers_of,
    operands_of,
)
from benchmarks.records import Deadline, Records, first_line
from benchmarks.timing import Timing, time_in_turns

# A form's largest error over the reference's largest entry. GPUs may round float32 factors to 10 bits.
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}


def layer_table(forms: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown, when all is done; two rows per distinct layer and batch: forward and gradient."""
    deadline, records = Deadline(arguments.limit), Records(arguments.jsonl)
    layers = layers_of(arguments.networks, arguments.width, arguments.image_size)
    cases = list(itertools.product(layers, arguments.batch))
    results = {}
    for index, (layer, batch) in enumerate(cases, start=1):
        if deadline.passed:
            progress(f"the limit of {arguments.limit:.0f} s: {len(cases) - index + 1} of {len(cases)} cases left out")
            break
        elapsed = arguments.limit - deadline.left
        progress(f"[{index}/{len(cases)}] after {elapsed:.0f} s: {layer}, batch {batch}")
        try:
            for which, timings in time_layer(layer, batch, forms, arguments, records).items():
                results[layer, batch, which] = timings
        except Exception as error:  # the inputs, say, do not fit into memory: other layers do
            records.add(layer=str(layer), batch=batch, error=first_line(error))
    yield from table_head("network", "layer", "batch", "pass", numbers=[f"{form} ms" for form in forms])
    order = {network: place for place, network in enumerate(arguments.networks)}
    for (layer, batch, which), timings in sorted(results.items(), key=lambda item: order[layers[item[0][0]][0]]):
        cells = [timings[form].cells(timings[forms[0]]) for form in forms]
        numbers = [milliseconds if ratio == "-" else f"{milliseconds} ({ratio})" for milliseconds, ratio in cells]
        yield table_row(", ".join(layers[layer]), str(layer), str(batch), which, *numbers)


def time_layer(
    layer: Layer, batch: int, forms: list[str], arguments: argparse.Namespace, records: Records
) -> dict[str, dict[str, Timing]]:
    """{pass: {form: timing}}, forms that failed or that this layer has not included."""
    inputs = layer_inputs(layer, batch, arguments.dtype)
    own = [form for form in forms if layer.has(form)]
    names = [(which, form) for which in PASSES for form in own]
    programs, failed = split_failures(compile_all({name: _lowering(*name, layer, inputs) for name in names}))
    expected = references(layer, inputs, {form in STATIC for form in own})
    timings = {}
    for which in PASSES:
        calls, errors = {}, {form: failed[which, form] for form in own if (which, form) in failed}
        for form in own:
            if (which, form) in programs:
                call = functools.partial(programs[which, form], *operands_of(form, inputs))
                try:
                    check(call, expected[which, form in STATIC], arguments.dtype)
                    calls[form] = call
                except Exception as error:  # out of memory, or wrong: the other forms go on
                    errors[form] = error
        measured = time_in_turns(calls, arguments.repeats, arguments.once_above)
        timings[which] = {form: measured.get(form, Timing(math.nan, absent=not layer.has(form))) for form in forms}
        _record(records, layer, batch, which, arguments.dtype, {form: timings[which][form] for form in own}, errors)
    return timings


def _record(records, layer, batch, which, dtype, timings, errors):
    for form, timing in timings.items():
        row = {"layer": str(layer), "batch": batch, "pass": which, "dtype": dtype}
        if math.isnan(timing.seconds):
            found = {"error": first_line(errors[form]) if form in errors else "failed while it was timed"}
        else:
            found = {"ms": 1000 * timing.seconds, "single": timing.single}
        records.add(**row, form=form, **found)


def _lowering(which: str, form: str, layer: Layer, inputs) -> Callable:
    return lambda: jax.jit(layer_function(form, layer, which)).lower(*operands_of(form, inputs))


def references(layer: Layer, inputs, kinds: set[bool]) -> dict[tuple[str, bool], jax.Array]:
    """{(pass, whether static): what every such form must give}, by one form, in float32 at the highest precision.

    `benchmarks.correctness` compares that form, too, with a CPU's.
    """
    expected = {}
    with jax.default_matmul_precision("highest"):
        exact = tuple(array.astype(jnp.float32) for array in inputs)
        for which, static in itertools.product(PASSES, kinds):
            form = "static" if static else "feature"
            expected[which, static] = jax.jit(layer_function(form, layer, which))(*operands_of(form, exact))
    return expected


def check(call: Callable, expected, dtype: str) -> None:
    """Raises ValueError for a form that computes something else."""
    error = float(largest_error(call(), expected))
    if not error <= TOLERANCE[dtype]:
        raise ValueError(f"wrong: largest relative error {error:.2g}")
