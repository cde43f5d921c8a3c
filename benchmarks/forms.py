"""The forms of a dynamic convolution that are compared, by the names of `--forms`."""

import functools
from collections.abc import Callable

import jax
from jax import lax

from dynet_jax.ops import conv, dynamic_conv, fuse_kernels

STATIC = ("static", "static_xla")
FORMS = (*STATIC, "vmapped_conv", "feature", "kernel", "auto")


def form_function(form: str) -> Callable:
    """(x, kernel, **options) -> y for the static forms, (x, kernels, coefficients, **options) -> y for the others."""
    if form in STATIC:
        return conv if form == "static" else xla_conv
    if form == "vmapped_conv":
        return lambda x, kernels, eta, **options: vmapped_conv(x, fuse_kernels(kernels, eta), **options)
    return functools.partial(dynamic_conv, fusion=form)


def xla_conv(x, kernel, *, strides=1, padding="SAME", kernel_dilation=1, **options):
    options |= {"rhs_dilation": (kernel_dilation,) * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, (strides,) * 2, padding, **options)


def vmapped_conv(x, kernels, **options):
    """The form that the library avoids, with the arguments of `dynet_jax.ops.conv_per_example`."""
    return jax.vmap(lambda image, kernel: xla_conv(image[None], kernel, **options)[0])(x, kernels)
