"""Which activation a function is that a traced network calls.

`activate` is an operation of its own in a trace (`dynet_jax.ops.whole`). Networks of users call functions of `jax.nn`
too, which JAX traces as functions under jax.jit, some within another one for their derivatives. They are recognised by
what they compute, since any function may be called 'relu'.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dynet_jax.ops.maps import ACTIVATIONS

# Primitives that call a function once, and their parameter that has it. Loops and conditions are none of them.
CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat", "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("core_call", "closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}


def called(equation):
    """The function that is called, or None."""
    function = equation.params.get(CALLS.get(equation.primitive.name))
    return getattr(function, "jaxpr", function)


def activation_of(equation) -> str | None:
    """Returns which of `ACTIVATIONS` the called function computes, or None."""
    function = called(equation)
    if function is None or len(equation.invars) != 1:
        return None
    steps = _steps(function)
    return next((name for name in ACTIVATIONS if _steps_of(name) == steps), None)


@functools.cache
def _steps_of(name: str) -> list:
    return _steps(jax.make_jaxpr(ACTIVATIONS[name])(jax.ShapeDtypeStruct((), jnp.float32)).jaxpr)


def _steps(function) -> list:
    """The primitives of a function and of what it calls, with their operands, and at last the function's results.

    An operand is a constant, or the number of the step that gives it; 0 is the function's argument. Parameters of the
    primitives are left out: those of which activations consist have none that matter.
    """
    steps: list = []

    def follow(jaxpr, arguments):
        known = dict(zip(jaxpr.invars, arguments))

        def operand(variable):
            if isinstance(variable, core.Literal):
                return "constant", np.asarray(variable.val).tolist()
            return known.get(variable)

        for equation in jaxpr.eqns:
            operands, inner = list(map(operand, equation.invars)), called(equation)
            if inner is None:
                steps.append((equation.primitive.name, *operands))
            results = [("step", len(steps))] if inner is None else follow(inner, operands)
            known.update(zip(equation.outvars, results))
        return list(map(operand, jaxpr.outvars))

    results = follow(function, [("step", 0)])
    return [*steps, *results]
