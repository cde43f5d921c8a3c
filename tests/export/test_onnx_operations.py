"""Every operation of programs, in every variant, in ONNX Runtime as in JAX."""

import onnx
import pytest

from dynet_jax.errors import UserError
from dynet_jax.export.onnx import program_to_onnx
from tests.export.test_onnx import OPTIONS, assert_same, followed, images, in_runtime, logits
from tests.inference.operations import CONVOLUTIONS, every_other_operation, one_convolution


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_convolution(case, dynamic):
    program = one_convolution(dynamic, case)
    runtime = in_runtime(program_to_onnx(program, **OPTIONS))
    for shape in ((2, 9, 12), (1, 10, 7)):
        assert_same(logits(runtime, images(*shape)), followed(program, images(*shape)))


@pytest.mark.slow
def test_every_other_operation():
    program = every_other_operation()
    model = program_to_onnx(program, **OPTIONS)
    onnx.checker.check_model(model, full_check=True)
    for shape in ((3, 9, 12), (1, 16, 16)):
        assert_same(logits(in_runtime(model), images(*shape)), followed(program, images(*shape)))


def test_what_onnx_runtime_cannot_do_is_named():
    program = one_convolution(False, "strides")
    (*before, static, same, mean, dense) = program.operations
    dilated = [operation._replace(kernel_dilation=(2, 2)) for operation in (static, same)]
    program = program._replace(operations=(*before, *dilated, mean, dense))
    with pytest.raises(UserError, match="static has strides, dilation and padding='SAME'"):
        program_to_onnx(program, **OPTIONS)
