"""The process of `benchmarks.layer_table`: it compiles, checks and times the forms of a layer."""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from benchmarks.compiling import compile_all, split_failures
from benchmarks.forms import STATIC
from benchmarks.layers import PASSES, Layer, largest_error, layer_function, layer_inputs, operands_of
from benchmarks.timing import time_in_turns
from dynet_jax.machine import cores
from dynet_jax.measure.failures import Deadline, what_failed
from dynet_jax.measure.serve import serve

# A form's largest error over the reference's largest entry. GPUs may round float32 factors to 10 bits.
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}


def describe() -> dict:
    """Returns the subject, and the seconds of an empty program; a layer close to that is not measured."""
    device, zero = jax.devices()[0], jnp.zeros(())
    empty = jax.jit(lambda x: x + 1).lower(zero).compile()
    seconds = time_in_turns({"empty": lambda: empty(zero)}, 5, 1.0)["empty"].seconds
    facts = {"jax": jax.__version__, "backend": jax.default_backend(), "device": device.device_kind}
    return {**facts, "cpus": len(cores()), "empty": seconds}


def time_layer(
    layer: Layer, batch: int, forms: list[str], dtype: str, repeats: int, once_above: float, deadline: Deadline
) -> Iterator[dict]:
    """Returns a row per pass and form; none for those that exceeded the time limit."""
    inputs = layer_inputs(layer, batch, dtype)
    programs, failed = _compiled(layer, forms, inputs)
    expected = references(layer, inputs, {form in STATIC for form in forms})
    for which in PASSES:
        calls, errors = {}, {form: failed[which, form] for form in forms if (which, form) in failed}
        for form in forms:
            if (which, form) not in programs or deadline.passed:
                continue
            call = functools.partial(programs[which, form], *operands_of(form, inputs))
            try:
                check(call, expected[which, form in STATIC], dtype)
                calls[form] = call
            except Exception as error:  # out of memory, or wrong: the other forms go on
                errors[form] = error
        timings = time_in_turns(calls, repeats, once_above, deadline)
        for form in forms:
            if form in errors:
                yield {"pass": which, "form": form, "error": what_failed(errors[form])}
            elif form in timings:
                seconds, single, _, error = timings[form]
                found = {"error": error} if error else {"ms": 1000 * seconds, "single": single}
                yield {"pass": which, "form": form, **found}


def _compiled(layer: Layer, forms: list[str], inputs) -> tuple[dict, dict]:
    """Returns {(pass, form): program}, and {(pass, form): failure}."""

    def lowering(which: str, form: str) -> Callable:
        return lambda: jax.jit(layer_function(form, layer, which)).lower(*operands_of(form, inputs))

    return split_failures(compile_all({name: lowering(*name) for name in itertools.product(PASSES, forms)}))


def references(layer: Layer, inputs, kinds: set[bool]) -> dict[tuple[str, bool], jax.Array]:
    """Returns {(pass, whether static): expected result}, from one form in float32 at the highest precision.

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
    """Raises ValueError for a form with a wrong result."""
    error = float(largest_error(call(), expected))
    if not error <= TOLERANCE[dtype]:
        raise ValueError(f"wrong: largest relative error {error:.2g}")


def answer(question: dict) -> dict | list[dict]:
    """Answers {"do": "describe"} or {"do": "time", ...} with the arguments of `time_layer` and the seconds left."""
    if question.pop("do") == "describe":
        return describe()
    layer, deadline = Layer(*question.pop("layer")), Deadline(question.pop("left"))
    return list(time_layer(layer, deadline=deadline, **question))


if __name__ == "__main__":
    serve(answer)
