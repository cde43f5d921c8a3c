"""Convolutions as the textbook writes them: numpy loops in float64 that share no code with the package."""

import functools

import jax
import numpy as np

# For tests of many small shapes, whose time is all compilation: half of it goes without LLVM's optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def conv_per_example(x, kernels, *, strides=1, padding="SAME", kernel_dilation=1, feature_group_count=1):
    """x [batch, *spatial, C_in], kernels [batch, *kernel_size, C_in / groups, C_out] -> [batch, *spatial, C_out]."""
    x, kernels = np.asarray(x, np.float64), np.asarray(kernels, np.float64)
    kernel_size = kernels.shape[1:-2]
    strides, dilation = _each(strides, kernel_size), _each(kernel_dilation, kernel_size)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size)]
    x = _pad(x, padding, reach, strides)
    inputs, outputs = kernels.shape[-2], kernels.shape[-1] // feature_group_count
    positions = [(size - r) // s + 1 for size, r, s in zip(x.shape[1:-1], reach, strides)]

    y = np.zeros((x.shape[0], *positions, kernels.shape[-1]))
    for example in range(x.shape[0]):
        for position in np.ndindex(*positions):
            window = tuple(slice(p * s, p * s + r, d) for p, s, r, d in zip(position, strides, reach, dilation))
            for group in range(feature_group_count):
                patch = x[(example, *window, slice(group * inputs, (group + 1) * inputs))]
                channels = slice(group * outputs, (group + 1) * outputs)
                kernel = kernels[example, ..., channels]
                y[(example, *position, channels)] = patch.ravel() @ kernel.reshape(-1, outputs)
    return y


def fuse_kernels(kernels, coefficients):
    """Eq. 1, example by example: [g, ..., C_out] and [batch, g, C_out or 1] -> [batch, ..., C_out]."""
    kernels, coefficients = np.asarray(kernels, np.float64), np.asarray(coefficients, np.float64)
    return np.stack([sum(eta * kernel for eta, kernel in zip(example, kernels)) for example in coefficients])


def dynamic_conv(x, kernels, coefficients, **options):
    return conv_per_example(x, fuse_kernels(kernels, coefficients), **options)


def _each(value, kernel_size):
    return (value,) * len(kernel_size) if isinstance(value, int) else tuple(value)


def _pad(x, padding, reach, strides):
    mode = "constant"
    if padding in ("SAME", "SAME_LOWER"):
        # As many outputs as strides fit in the input, with the odd zero at the end (SAME) or the start (SAME_LOWER).
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(x.shape[1:-1], reach, strides)]
        pads = [(t // 2, t - t // 2) for t in totals]
        if padding == "SAME_LOWER":
            pads = [(high, low) for low, high in pads]
    elif padding == "TORCH":
        pads = [((r - 1) // 2,) * 2 for r in reach]
    elif padding == "VALID":
        pads = [(0, 0)] * len(reach)
    elif padding in ("CIRCULAR", "REFLECT"):
        pads = [((r - 1) // 2, r // 2) for r in reach]
        mode = "wrap" if padding == "CIRCULAR" else "reflect"
    elif padding == "CAUSAL":
        pads = [(reach[0] - 1, 0)]
    else:
        pads = [(p, p) if isinstance(p, int) else p for p in _each(padding, reach)]
    return np.pad(x, [(0, 0), *pads, (0, 0)], mode=mode)


def assert_same_function(function, expected, *arguments, tolerance=1e-4):
    """Values and gradients of a JAX function against a numpy one that is linear in each of its arguments.

    A linear function's derivative along a direction is the function of that direction, which needs no step size:
    <gradient, direction> must be <cotangent, expected(direction)>. A random direction sees an error in any element.
    """
    rng = np.random.default_rng(len(arguments))
    y = expected(*arguments)
    cotangent = rng.normal(size=y.shape)

    @jit
    def run(arguments, cotangent):
        y, pullback = jax.vjp(function, *arguments)
        return y, pullback(cotangent.astype(y.dtype))

    got, gradients = run(arguments, cotangent)
    assert got.dtype == arguments[0].dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), y, rtol=0, atol=tolerance * np.abs(y).max())
    for i, gradient in enumerate(gradients):
        assert gradient.dtype == arguments[i].dtype
        direction = rng.normal(size=arguments[i].shape)
        change = expected(*arguments[:i], direction, *arguments[i + 1 :])
        derivative = np.vdot(np.asarray(gradient, np.float64), direction)
        np.testing.assert_allclose(
            derivative,
            np.vdot(cotangent, change),
            rtol=0,
            atol=tolerance * np.linalg.norm(change),
            err_msg=f"gradient of argument {i}",
        )
