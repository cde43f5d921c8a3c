"""The cases of `benchmarks.correctness`: a program for the accelerator, and its expected result from a CPU."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.compiling import compile_all
from benchmarks.forms import FORMS, STATIC, form_function
from benchmarks.layers import Layer, layer_inputs, operands_of
from benchmarks.network_forms import KERNELS
from dynet_jax import create_model, list_models
from dynet_jax.measure.failures import what_failed
from dynet_jax.ops.backend import tracing_for
from tests.models.smallest import random_variables

DTYPES = ("float32", "bfloat16")
FORM_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
# The kernels for GPUs multiply float32 at the default precision only, which cuts factors to 10 bits: 1e-3 of each.
KERNEL_TOLERANCE = {**FORM_TOLERANCE, "float32": 1e-2}
# Rounding to bfloat16 grows through a random network, up to gradients that share little with float32's: the accelerator
# may be twice as far from float32 as the CPU is with the same rounding.
NETWORK_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
KINDS = {
    "dense": (3, 12, 16, 1),
    "grouped": (3, 24, 48, 4),
    "grouped, as many out as in": (3, 24, 24, 4),
    "depthwise": (3, 24, 24, 24),
    "pointwise": (1, 24, 40, 1),
}
BATCH, IMAGE_SIZE = 8, 32


def by_kernels() -> bool:
    """Returns whether the environment asks for this package's kernels on GPUs."""
    return os.environ.get(KERNELS) == "1"


class FormCase(NamedTuple):
    """One form of one layer; values that depend only on the kind are computed once for all forms."""

    form: str
    kind: str
    layer: Layer
    dtype: str

    subject = property(lambda self: self.form)
    rounded = None  # the tolerance does not depend on it
    tolerance = property(lambda self: (KERNEL_TOLERANCE if by_kernels() else FORM_TOLERANCE)[self.dtype])

    def __str__(self):
        return f"{self.kind}, stride {self.layer.strides}"

    @property
    def reference(self) -> "FormCase":
        """Returns XLA's convolution, image by image if the kernels differ; it uses none of the library's own forms."""
        return self._replace(form="static_xla" if self.form in STATIC else "vmapped_conv")

    def operands(self) -> tuple:
        """Returns the operands and the output's cotangent, in float32 with the rounded values."""
        layer = self.layer
        inputs = layer_inputs(layer, BATCH, self.dtype)
        size = -(-layer.size // layer.strides)
        shape = (BATCH, size, size, layer.c_out)
        cotangent = np.random.default_rng(1).standard_normal(shape, np.float32)
        arrays = [*operands_of(self.form, inputs), jnp.asarray(cotangent, self.dtype)]
        return tuple(np.asarray(array.astype(jnp.float32)) for array in arrays)

    def program(self, dtype: str) -> Callable:
        """Returns a function operands -> (output, gradients in all of them)."""

        def forwards_and_backwards(*arrays):
            *operands, cotangent = (array.astype(dtype) for array in arrays)
            options = {"strides": self.layer.strides, "feature_group_count": self.layer.groups}
            y, vjp = jax.vjp(lambda *values: form_function(self.form)(*values, **options), *operands)
            return y, vjp(cotangent)

        return forwards_and_backwards

    def errors(self, result, expected) -> dict[str, float]:
        names = ("output", *(f"gradient {index}" for index in range(len(expected[1]))))
        pairs = zip(names, (result[0], *result[1]), (expected[0], *expected[1]))
        return {name: _largest(value, wanted) for name, value, wanted in pairs}


class NetworkCase(NamedTuple):
    """A network in training: its logits, and the gradients of a loss."""

    network: str
    width: float
    dtype: str

    subject = property(lambda self: self.network)
    tolerance = property(lambda self: NETWORK_TOLERANCE["float32" if self.rounded is None else "bfloat16"])

    def __str__(self):
        return f"width {self.width:g}, {IMAGE_SIZE}x{IMAGE_SIZE}"

    @property
    def reference(self) -> "NetworkCase":
        """Returns the same on the CPU, which the tests compare with plain formulas and with PyTorch."""
        return self._replace(dtype="float32")

    @property
    def rounded(self) -> "NetworkCase | None":
        """Returns the case whose bfloat16 on the CPU says how much rounding does; None of exact float32."""
        return self._replace(dtype="bfloat16") if self.dtype == "bfloat16" or by_kernels() else None

    def model(self, dtype: str):
        return create_model(self.network, num_classes=10, width=self.width, small_input=True, dtype=jnp.dtype(dtype))

    def operands(self) -> tuple:
        variables = random_variables(self.model("float32"), IMAGE_SIZE)
        images = np.random.default_rng(2).standard_normal((BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
        # Images of different brightness, or all would have the same coefficients.
        return variables, images * np.linspace(0.5, 2, BATCH, dtype=np.float32)[:, None, None, None]

    def program(self, dtype: str) -> Callable:
        """Returns a function (variables, images) -> (logits, gradients of all parameters)."""
        model = self.model(dtype)

        def logits_and_gradients(variables, images):
            def loss(params):
                logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 10)
                return jnp.mean(losses), logits

            gradients, logits = jax.grad(loss, has_aux=True)(variables["params"])
            return logits, gradients

        return logits_and_gradients

    def errors(self, result, expected) -> dict[str, float]:
        return {"logits": _length(result[0], expected[0]), "gradients": _length(result[1], expected[1])}


Case = FormCase | NetworkCase


def form_cases(size: int, forms: Sequence[str] = FORMS) -> list[FormCase]:
    """Returns every distinct form of a layer among the given ones, in both types."""
    cases = []
    for kind, (kernel_size, c_in, c_out, groups) in KINDS.items():
        for strides in (1, 2):
            layer = Layer(size, kernel_size, c_in, c_out, strides, groups)
            cases += [FormCase(form, kind, layer, dtype) for form in forms for dtype in DTYPES if layer.has(form)]
    return cases


def network_cases(pattern: str, width: float) -> list[NetworkCase]:
    """Returns the networks; below half the width, the shuffling networks cannot be split in two."""
    widths = {name: max(width, 0.5) if "shuffle" in name else width for name in list_models(pattern)}
    return [NetworkCase(name, width, dtype) for name, width in widths.items() for dtype in DTYPES]


def check_together(cases: list[Case], device, cpu, jobs: int) -> Iterator[dict]:
    """Returns a row per case. All programs are compiled in parallel, and shared results are computed once."""
    references = {case.reference: (case.reference, "float32") for case in cases}
    # A CPU's programs run once: compiling is all that takes time. (Networks ignore the inputs' type.)
    expected = _run_all(references, cpu, jobs, quick=True)
    results = _run_all({case: (case, case.dtype) for case in cases}, device, jobs, quick=device.platform == "cpu")
    rounded = {case.rounded: (case.rounded, "bfloat16") for case in cases if case.rounded is not None}
    rounded = _run_all(rounded, cpu, jobs, quick=True)
    for case in cases:
        row = {"subject": case.subject, "case": str(case), "dtype": case.dtype}
        wanted, result, alike = expected[case.reference], results[case], rounded.get(case.rounded)
        failure = next((value for value in (wanted, result, alike) if isinstance(value, Exception)), None)
        if failure is not None:
            yield row | {"error": None, "tolerance": case.tolerance, "passed": False, "failure": what_failed(failure)}
            continue
        errors = case.errors(result, wanted)
        tolerances = dict.fromkeys(errors, case.tolerance)
        if alike is not None:
            tolerances = {name: max(case.tolerance, 2 * e) for name, e in case.errors(alike, wanted).items()}
        worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name] / tolerances[name])
        passed = all(errors[name] <= tolerances[name] for name in errors)
        error = errors[worst] if math.isfinite(errors[worst]) else None
        yield row | {"error": error, "of": worst, "tolerance": tolerances[worst], "passed": passed}


def _run_all(programs: dict, device, jobs: int, quick: bool) -> dict:
    """Returns {key: NumPy results, or the exception} for {key: (case, dtype)}."""
    options = {"xla_backend_optimization_level": 0} if quick else {}
    backend = "cpu" if device.platform == "cpu" else jax.default_backend()
    operands = {key: jax.device_put(case.operands(), device) for key, (case, _) in programs.items()}
    lowerings = {key: functools.partial(_lower, *program, operands[key]) for key, program in programs.items()}
    with tracing_for(backend):
        compiled = compile_all(lowerings, jobs, **options)
    return {key: _run(program, operands[key]) for key, program in compiled.items()}


def traced(case: Case, dtype: str, operands: tuple) -> jax.stages.Traced:
    """Returns a case's program for the hardware that is traced for."""
    # A GPU would round float32's factors to 10 bits. Its kernels do, and leave the highest precision to XLA.
    exact = dtype == "float32" and not by_kernels()
    with jax.default_matmul_precision("highest" if exact else "default"):
        return jax.jit(case.program(dtype)).trace(*operands)


def _lower(case, dtype, operands):
    return traced(case, dtype, operands).lower()


def _run(program, operands):
    if isinstance(program, Exception):
        return program
    try:
        return jax.tree.map(lambda array: np.asarray(array, np.float32), program(*operands))
    except Exception as error:  # one case's failure is its own
        return error


def _largest(result, expected) -> float:
    return float(np.max(np.abs(result - expected)) / np.max(np.abs(expected)))


def _length(result, expected) -> float:
    result, expected = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (result, expected))
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
