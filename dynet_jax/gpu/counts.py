"""What a program for a GPU computes and moves: XLA's cost analysis, and what it cannot look into."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import jax
from jaxlib import _jax

from dynet_jax.compiled.hlo import Shape
from dynet_jax.compiled.program import Counts
from dynet_jax.compiled.traced import TracedKernel
from dynet_jax.gpu.library_calls import TRITON, find_library_calls


def count(compiled, kernels: Iterable[TracedKernel]) -> Counts:
    """Returns the counts of a `jax.stages.Compiled` for a GPU, and those its Pallas kernels declare.

    The plugin for GPUs has no cost analysis. That of any backend reads the optimised program all the same; it counts
    every call that it cannot look into as -1. A loop's body is counted once, as on other hardware.
    """
    [module] = compiled.runtime_executable().hlo_modules()
    cost = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    calls, declared = find_library_calls(compiled.as_text()), _declared(kernels)
    flops = cost.get("flops", 0.0) + sum(1 + call.flops for call in calls)
    moved = cost.get("bytes accessed", 0.0) + sum(1 + call.bytes for call in calls)
    own = [call for call in calls if call.target == TRITON]
    flops += sum(declared[_key(call.operands, call.results)] for call in own)
    numbers = Counter(call.target.lstrip("_") for call in calls if call.target != TRITON)
    return Counts(flops, moved, len(own), tuple(sorted(numbers.items())))


def _declared(kernels: Iterable[TracedKernel]) -> dict[tuple, float]:
    """Returns the operations of kernels by the shapes that they are called with: the text has no more of them."""
    found: dict[tuple, float] = defaultdict(float)
    for kernel in kernels:
        cost, key = kernel.options.get("cost_estimate"), _key(_shapes(kernel.arrays), _shapes(kernel.outputs))
        found[key] = max(found[key], cost.flops if cost else 0.0)
    return found


def _shapes(arrays) -> list[Shape]:
    return [(_NAMES.get(str(array.dtype), str(array.dtype)), array.shape) for array in arrays]


def _key(operands, results) -> tuple:
    return tuple(operands), tuple(results)


_NAMES = {"bfloat16": "bf16", "float32": "f32", "float16": "f16", "int32": "s32"}
