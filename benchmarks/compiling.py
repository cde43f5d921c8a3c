"""Parallel compilation of many programs; a GPU's compiler takes seconds for each, on one core."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax

from dynet_jax.machine import cores

JOBS = min(8, len(cores()))


def compile_all(
    lowerings: dict[str, Callable[[], jax.stages.Lowered]], jobs: int = JOBS, **options
) -> dict[str, jax.stages.Compiled | Exception]:
    """Returns every program, or its failure. `options` are the compiler's; programs are traced here, one by one."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = {}
        for name, lower in lowerings.items():
            try:
                futures[name] = pool.submit(lower().compile, compiler_options=options or None)
            except Exception as error:  # one program that cannot be traced must not end the others
                futures[name] = error
        return {name: future if isinstance(future, Exception) else _result(future) for name, future in futures.items()}


def _result(future):
    try:
        return future.result()
    except Exception as error:  # nor one that cannot be compiled
        return error


def split_failures(results: dict) -> tuple[dict, dict[str, Exception]]:
    """Returns (results, failures)."""
    failed = {name: value for name, value in results.items() if isinstance(value, Exception)}
    return {name: value for name, value in results.items() if name not in failed}, failed
