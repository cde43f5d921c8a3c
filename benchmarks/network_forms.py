"""One form for all dynamic convolutions of a network, whatever form the network asks for."""

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

from benchmarks.forms import PER_IMAGE, feature_conv
from dynet_jax.ops import xla

FORMS = ("auto", "kernel", "feature", "vmapped_conv", "pallas")  # those of whole networks that are compared on GPUs
KERNELS = "DYNET_JAX_GPU_KERNELS"  # the variable that asks for this package's kernels on GPUs


def usual_forms() -> list[str]:
    """Returns the form that the environment asks for."""
    return ["pallas" if os.environ.get(KERNELS) == "1" else "auto"]


@contextlib.contextmanager
def every_dynamic_conv_by(form: str) -> Iterator[None]:
    """Makes functions that are traced inside use a form for every `dynamic_conv` with fusion='auto'.

    'auto' is the rule of this package, 'pallas' the rule with its kernels for GPUs, and other forms are those of
    `benchmarks.forms`. Networks leave the choice to `choose_fusion`, so that is replaced; for a form that is not the
    library's, `conv_per_example` or the fusion of feature maps is replaced as well.
    """
    replacements = {}
    if form not in ("auto", "pallas"):
        fusion = "feature" if form in ("feature", "feature_conv") else "kernel"
        replacements["choose_fusion"] = lambda *_, **__: fusion
    if form in PER_IMAGE:
        replacements["conv_per_example"] = PER_IMAGE[form]
    if form == "feature_conv":
        replacements["_fuse_features"] = lambda x, kernels, coefficients, options: feature_conv(
            x, kernels.astype(x.dtype), coefficients, **options
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {KERNELS: "1" if form == "pallas" else "0"}))
        if replacements:
            stack.enter_context(mock.patch.multiple(xla, **replacements))
        yield
