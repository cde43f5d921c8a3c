"""What ordinary Flax networks do between their layers is recorded as it is, for every size of images, or for one."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax.errors import UserError
from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.export.stablehlo import to_stablehlo
from dynet_jax.inference import InferenceModel, program_of
from dynet_jax.layers import DynamicConv, spatial_mean
from tests.export.test_onnx import in_runtime
from tests.export.test_onnx import logits as onnx_logits
from tests.inference.networks import assert_same, images
from tests.inference.test_recording import UNIT, Around, needs_compiler, recorded

SHAPES = ((2, 19, 18), (1, 17, 8), (3, 16, 21))
VECTOR = np.linspace(-1, 2, 8, dtype=np.float32)


def pools(x):
    x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME") + nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    x = nn.avg_pool(x, (3, 2), strides=(1, 1), padding="SAME") - nn.pooling.min_pool(x, (3, 3), (1, 1), padding="SAME")
    return nn.avg_pool(x, (3, 3), strides=(2, 1), padding=((1, 1), (0, 2)))


def odd_pools(x):
    x = nn.max_pool(x, (2, 3), strides=(1, 2)) * 0.5
    x = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME", count_include_pad=False)
    return nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")


def means(x):
    return x + x.mean((1, 2), keepdims=True) * jnp.mean(x, axis=(-3, -2))[:, None, None] - x.mean(-1, keepdims=True)


def extremes(x):
    return (
        x
        - x.max((1, 2), keepdims=True)
        + x.min(axis=(1, 2))[:, None, None]
        - x.max(-1, keepdims=True)
        + x.sum(-1)[..., None]
    )


def spread(x):
    return (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2)) + 0.1)[:, None, None]


def constants(x):
    x = (2 * x - VECTOR) / 3 + 1 / (2 + jnp.abs(x)) - (1 - x) * VECTOR
    return jnp.clip(-x, -0.5, 1.5) + jnp.maximum(x, VECTOR) + jnp.where(x > VECTOR, x, 0.3) * (x < 0.2) + x**3 + x**2.0


def activations(x):
    for function in (nn.leaky_relu, nn.gelu, nn.elu, nn.softplus, nn.tanh, nn.selu, nn.celu, nn.relu6, nn.hard_tanh):
        x = x + function(x)
    x = nn.gelu(x, approximate=False) + nn.leaky_relu(x, 0.3) + jax.nn.mish(x) + nn.silu(x) + nn.hard_swish(x)
    return nn.log_sigmoid(x) + nn.soft_sign(x) + jax.nn.squareplus(x) + jnp.exp(-jnp.square(x)) + nn.swish(x)


def softmaxed(x):
    return nn.softmax(x) * x + nn.softmax(spatial_mean(x))[:, None, None]


def norms(x):
    x = nn.LayerNorm()(x) + nn.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-3)(x)
    x = x + nn.GroupNorm(num_groups=4)(x) + nn.GroupNorm(num_groups=None, group_size=8)(x)
    x = nn.RMSNorm()(x) + nn.InstanceNorm()(x) + nn.GroupNorm(num_groups=8, use_bias=False)(x)
    return x + nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1, use_fast_variance=False)(x)


def head_of_norms(x):
    x = nn.gelu(nn.LayerNorm()(nn.Dense(12)(nn.Dropout(0.5, deterministic=True)(x.mean((1, 2))))))
    return nn.log_softmax(nn.Dense(5)(nn.GroupNorm(3)(x).reshape((x.shape[0], -1))))


def through_layers(x):
    """Layers that programs do not know are what they are made of."""
    x = nn.remat(nn.Conv)(8, (3, 3), strides=2, feature_group_count=2)(x)
    return nn.BatchNorm(use_running_average=True)(Standardized(8, (3, 3), strides=(2, 1))(x))


class Standardized(nn.Conv):
    """A convolution whose kernel has mean zero."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        return jax.lax.conv_general_dilated(
            x, kernel - kernel.mean(), self.strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class Residual(nn.Module):
    """ConvNeXt's block, with a dynamic convolution and a scale of its own."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(DynamicConv(8, (3, 3), group_size=2)(x))
        y = nn.Dense(8)(nn.gelu(nn.Dense(16)(y)))
        return x + y * self.param("scale", nn.initializers.constant(0.1), (8,))


def flat(x):
    return nn.Dense(5)(x.reshape((x.shape[0], -1)))


def rolled(x):
    """Slices by lax have strides of 1 in numbers, and those by indices have none."""
    return jnp.roll(x, 3, -1) * 2 + jnp.concatenate([x[..., 5:], jax.lax.slice_in_dim(x, 1, 6, axis=-1)], -1)


ANY_SIZE = {
    "pools": (pools,),
    "pools of odd windows": (odd_pools,),
    "means": (means, lambda x: nn.Dense(5)(x.mean((1, 2)))),
    "extremes": (extremes, lambda x: nn.Dense(5)(x.max((1, 2)))),
    "deviations": (spread,),
    "constants": (constants,),
    "activations": (activations,),
    "softmax": (softmaxed,),
    "norms": (norms,),
    "norms in the head": (lambda x: x, head_of_norms),
    "one position": (lambda x: x, lambda x: flat(x.mean((1, 2), keepdims=True))),
    "other layers": (through_layers,),
    "slices": (rolled,),
    "block": (lambda x: Residual()(Residual()(nn.max_pool(x, (2, 2), (2, 2)))),),
}
ONE_SIZE = {
    "flattened": (lambda x: nn.avg_pool(x, (4, 4), (4, 4)), lambda x: flat(nn.relu(x))),
    "squeezed": (lambda x: nn.avg_pool(x, (16, 16)), lambda x: nn.Dense(5)(x[:, 0, 0])),
    "embedded positions": (lambda x: x + jnp.arange(16 * 16 * 8).reshape(16, 16, 8) / 999,),
    "another layer for large images": (lambda x: nn.relu(x) if x.shape[1] > 16 else nn.silu(x - 1),),
    "first rows": (lambda x: nn.Conv(8, (1, 1))(x) + x[:, :16],),
}


def runtimes(program):
    session = in_runtime(program_to_onnx(program, preprocessing=UNIT))
    return [InferenceModel(program, UNIT, runtime="jax").logits, lambda x: onnx_logits(session, x)]


@pytest.mark.slow
@pytest.mark.parametrize("case", ANY_SIZE)
def test_of_any_size(case):
    model, variables, program = recorded(Around(*ANY_SIZE[case]))
    assert program.image_size is None
    apply, given = jax.jit(model.apply), runtimes(program)
    for shape in SHAPES:
        wanted = apply(variables, images(*shape) / np.float32(255))
        for runtime in given:
            assert_same(runtime(images(*shape)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_SIZE)
def test_of_one_size(case):
    model, variables, program = recorded(Around(*ONE_SIZE[case]))
    assert program.image_size == (16, 16)
    wanted = model.apply(variables, images(3, 16, 16) / np.float32(255))
    for runtime in runtimes(program):
        assert_same(runtime(images(3, 16, 16)), wanted)
    with pytest.raises(UserError, match="images of 32x32 do not fit this network, which takes those of 16x16 alone"):
        InferenceModel(program, UNIT, runtime="jax").logits(images(1, 32, 32))
    with pytest.raises(UserError, match="does not work for others than those of 16x16; use runtime='jax'"):
        InferenceModel(program, UNIT, runtime="native")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["program", "module"])
def test_stablehlo_of_one_size(runtime):
    """A map is flattened; the module also sorts, which programs do not have."""
    sort = {"program": lambda x: x, "module": functools.partial(jnp.sort, axis=-1)}[runtime]
    model = Around(lambda x: nn.max_pool(x, (4, 4), (4, 4)), lambda x: flat(sort(x)))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    if runtime == "program":
        network = InferenceModel(program_of(model, variables, 16), UNIT, runtime="jax")
    else:
        network = InferenceModel.of_module(model, variables, UNIT)
    exported, pixels = to_stablehlo(network), images(3, 16, 16)
    assert_same(np.asarray(exported.call(pixels)["logits"]), model.apply(variables, pixels / np.float32(255)))
    with pytest.raises(ValueError, match="Shape mismatch"):
        exported.call(images(1, 32, 32))


@needs_compiler
@pytest.mark.slow
def test_native_has_means_of_windows_and_scaled_maps():
    def middle(x):
        x = nn.avg_pool(2 * x - VECTOR, (3, 2), strides=(2, 1), padding="SAME")
        return nn.relu((1 - x) / 4) + 1

    model, variables, program = recorded(Around(middle, lambda x: nn.Dense(5)(x.mean((1, 2)) * VECTOR)))
    for shape in SHAPES:
        wanted = model.apply(variables, images(*shape) / np.float32(255))
        assert_same(InferenceModel(program, UNIT, runtime="native").logits(images(*shape)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.tanh, "tanh of elements"),
        (lambda x: jnp.maximum(x, 0.5), "maximum with a constant"),
        (lambda x: nn.pooling.min_pool(x, (2, 2), (1, 1)), "pooling by the min"),
        (lambda x: x - x.max(-1, keepdims=True), "reduce"),
    ],
)
def test_native_refuses_what_it_does_not_have(function, name):
    _, _, program = recorded(Around(function))
    with pytest.raises(UserError, match=f"the native engine has no {name}.*; use runtime='jax'"):
        InferenceModel(program, UNIT, runtime="native")


def test_a_refusal_names_the_line():
    def sorted_channels(x):
        return jnp.sort(x, axis=-1)  # the line

    number = sorted_channels.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"{re.escape(__file__)}:{number}: .*'sort'.*--format=stablehlo .*'jax'"):
        recorded(Around(sorted_channels))


def test_a_divisor_that_is_nearly_a_multiple_of_the_positions_is_not_rounded():
    model, variables, program = recorded(Around(lambda x: x.sum((1, 2)) / (16 * 16 * 4000.4) * 4000, nn.Dense(5)))
    wanted = model.apply(variables, images(2, 16, 16) / np.float32(255))
    assert_same(InferenceModel(program, UNIT, runtime="jax").logits(images(2, 16, 16)), wanted, 1e-5)


class InEvaluation(nn.Module):
    """A network that trains unless it is told otherwise, by any of the names that Flax networks use."""

    @nn.compact
    def __call__(self, x, *, training=True, deterministic=False):
        x = nn.BatchNorm(use_running_average=not training)(nn.Conv(8, (3, 3))(x))
        return nn.Dense(5)(nn.Dropout(0.5)(spatial_mean(x), deterministic=deterministic))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.Dropout(0.5, deterministic=False)(spatial_mean(x)))


def test_a_network_is_called_as_in_evaluation():
    model = InEvaluation()
    given = {"training": False, "deterministic": True}
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), **given)
    wanted = model.apply(variables, images(2, 16, 16) / np.float32(255), **given)
    runtime = InferenceModel(program_of(model, variables, 16), UNIT, runtime="jax")
    assert_same(runtime.logits(images(2, 16, 16)), wanted)
    assert_same(InferenceModel.of_module(model, variables, UNIT).logits(images(2, 16, 16)), wanted)


def test_what_flax_cannot_evaluate_is_refused_in_one_line():
    model = Dropping()
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(UserError, match=r"^the network cannot be evaluated: .*dropout[^\n]*$"):
        program_of(model, variables, 16)
    with pytest.raises(UserError, match=r"^a Linen module needs its variables"):
        program_of(model, None, 16)
