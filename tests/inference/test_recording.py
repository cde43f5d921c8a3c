"""A user's network is recorded right, in every runtime, or refused with a line that names what programs do not have."""

import functools
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynet_jax
from dynet_jax.errors import UserError
from dynet_jax.export.onnx import program_to_onnx
from dynet_jax.inference import InferenceModel, Preprocessing, program_of
from dynet_jax.inference.program import Channels, Convolution, Dense, MaxPool
from dynet_jax.layers import (
    CoefficientPredictor,
    CoefficientSpec,
    DynamicConv,
    activate,
    channel_shuffle,
    max_pool,
    spatial_mean,
)
from dynet_jax.ops.maps import ACTIVATIONS
from tests.export.test_onnx import in_runtime
from tests.export.test_onnx import logits as onnx_logits
from tests.inference.networks import assert_same, images
from tests.inference.operations import program_of_operations

UNIT = Preprocessing(16, 16, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
SHAPES = ((2, 19, 18), (1, 17, 8), (3, 16, 3))  # of batches; also as many images as columns, columns as channels
no_compiler = not any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(no_compiler, reason="needs a C++ compiler")


class Around(nn.Module):
    """A convolution, what is looked at, and a classifier."""

    middle: object
    head: object = None

    @nn.compact
    def __call__(self, x, train=False):
        x = self.middle(nn.relu(nn.Conv(8, (3, 3))(x)))
        return (self.head or (lambda y: nn.Dense(5)(spatial_mean(y))))(x)


def recorded(model):
    """(model, variables that are not as they were initialised, program)"""
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.1 * rng.uniform(size=leaf.shape), jnp.float32), variables
    )
    return model, variables, program_of(model, variables, 16)


def conv(features=8, size=1, **options):
    return nn.Conv(features, (size, size), **options)


def norm():
    return nn.BatchNorm(use_running_average=True)


def excited(x):
    return x * nn.sigmoid(nn.Dense(8)(spatial_mean(x)))[:, None, None, :]


def excited_by_reshape(x):
    y = nn.silu(nn.Dense(4)(spatial_mean(x, keepdims=True).reshape((x.shape[0], -1))))
    return x * nn.hard_sigmoid(nn.Dense(8)(y)).reshape((x.shape[0], 1, 1, 8))


def excited_by_one_channel(x):
    return x * nn.sigmoid(conv(1)(spatial_mean(x, keepdims=True))) + nn.sigmoid(conv(1)(x)) * x


def plus_everywhere(x):
    return nn.relu(conv(size=3)(x) + jnp.broadcast_to(conv()(spatial_mean(x, keepdims=True)), x.shape))


def of_vectors(x):
    y = jnp.concatenate([spatial_mean(x), spatial_mean(nn.relu(conv(6)(x)))], axis=-1)
    left, right = jnp.split(channel_shuffle(y, groups=2), 2, axis=-1)
    return nn.Dense(5)(norm()(left * right + left))


def pooled(x):
    return max_pool(max_pool(x, padding="SAME", strides=1, size=3), strides=2, size=3, padding="VALID")


def shared(x):
    layer, normal = conv(size=3), norm()
    x = nn.relu(normal(layer(x)))
    y = normal(layer(x))
    return nn.relu(y + x) + y


def every_activation(x):
    """By the functions of Flax and of JAX, in a function of one's own, and by this package's."""
    own = jax.jit(lambda x: jax.nn.silu(x))
    for function in (jax.nn.relu6, nn.swish, nn.hard_swish, nn.sigmoid, jax.nn.hard_sigmoid, own):
        x = function(conv()(x))
    for name in ACTIVATIONS:
        x = activate(conv()(x), name)
    return activate(x, None)


@jax.jit
def silu(x):
    """Not that of `jax.nn`."""
    return x * nn.hard_sigmoid(x)


@jax.jit
def mean(x):
    return spatial_mean(x)


def served(x):
    (coefficients,) = CoefficientPredictor(features=(8,), group_size=3)(x)
    x = nn.relu(DynamicConv(8, (3, 3), group_size=3)(x, coefficients=coefficients))
    return DynamicConv(8, (3, 3), group_size=3)(x, coefficients)


RIGHT = {
    "squeeze-excite": (excited,),
    "squeeze-excite by reshape": (excited_by_reshape,),
    "one channel for all": (excited_by_one_channel,),
    "residual of one position": (lambda x: nn.relu(conv(size=3)(x) + spatial_mean(x, keepdims=True)),),
    "vector at every position": (plus_everywhere,),
    "vectors": (lambda x: x, of_vectors),
    "dense on a map": (lambda x: nn.relu(nn.Dense(12)(x)),),
    "pooling by keywords": (pooled,),
    "function called silu": (silu,),
    "jitted mean": (lambda x: x, lambda x: nn.Dense(5)(mean(x))),
    "function called twice": (lambda x: silu(silu(x) + x),),
    "layer called twice": (shared,),
    "shared coefficients": (served,),
    "BatchNorm in the head": (lambda x: x, lambda x: nn.Dense(5)(nn.relu(norm()(nn.Dense(12)(spatial_mean(x)))))),
    "BatchNorm of a mean": (lambda x: x, lambda x: nn.Dense(5)(norm()(spatial_mean(x)))),
    "convolution as classifier": (lambda x: x, lambda x: conv(5)(spatial_mean(x, keepdims=True))[:, 0, 0]),
    "another float and back": (lambda x: x.astype(jnp.float16).astype(jnp.float32),),
    "strides of columns alone": (lambda x: nn.Conv(8, (3, 3), strides=(1, 2))(x),),
    "checkpointed": (lambda x: jax.checkpoint(nn.relu)(x),),
    "every activation": (every_activation,),
}
# What the engine says it cannot do.
NOT_NATIVE = {"one channel for all"}


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT)
def test_recorded_right(case):
    model, variables, program = recorded(Around(*RIGHT[case]))
    assert program_of_operations(program.operations, program.result).values.items() <= program.values.items()
    runtimes = [InferenceModel(program, UNIT, runtime="jax").logits]
    session = in_runtime(program_to_onnx(program, preprocessing=UNIT))
    runtimes.append(lambda x: onnx_logits(session, x))
    if case in NOT_NATIVE:
        with pytest.raises(UserError, match="use runtime='jax'"):
            InferenceModel(program, UNIT, runtime="native")
    elif not no_compiler:
        runtimes.append(InferenceModel(program, UNIT, runtime="native").logits)
    for shape in SHAPES:
        wanted = model.apply(variables, images(*shape) / np.float32(255))
        for runtime in runtimes:
            assert_same(runtime(images(*shape)), wanted)


def transposed_vector(x):
    """A vector where the columns of a map are: it fits only if there are as many images as columns."""
    return x + spatial_mean(x)[None, None] if x.shape[0] == 1 else x + jnp.swapaxes(x, 1, 2)


def loop(x):
    return jax.lax.fori_loop(0, 3, lambda _, y: nn.relu(y + y), x)


REFUSED = {
    "loop": ((loop,), "'scan'"),
    "rows of larger images": ((lambda x: conv()(x[:, :8]),), "'slice' .map."),
    "vector as coefficients": (
        (lambda x: dynet_jax.ops.dynamic_conv(x, jnp.ones((1, 1, 1, 8, 8)), nn.softmax(spatial_mean(x))[:, None]),),
        r"'dynamic_conv' \(map, value",
    ),
    "condition": ((lambda x: jax.lax.cond(jnp.zeros(()) > 1, nn.relu, nn.silu, x),), "'cond'"),
    "two results": ((lambda x: x, lambda x: {"aux": spatial_mean(x), "logits": spatial_mean(x)}), "has 2 results"),
    "no result of the images": ((lambda x: x, lambda x: jnp.zeros((2, 5))), "does not depend on the images"),
    "integers": ((lambda x: (x * x).astype(jnp.int32).astype(jnp.float32) + x,), "'convert_element_type'"),
    "window of all positions": ((lambda x: x * conv(8, 16, padding="VALID")(x),), "'mul' of maps of different sizes"),
    "transposed": ((transposed_vector,), "'transpose'"),
    "coefficients": (
        (lambda x: DynamicConv(8, (3, 3))(x, nn.relu(CoefficientPredictor((8,))(x)[0])),),
        "'relu' .coefficients",
    ),
    "coefficients of one's own": (
        (lambda x: DynamicConv(8, (3, 3), group_size=1)(x, nn.Dense(8)(spatial_mean(x))[:, None]),),
        r"'DynamicConv_0' \(map, value without channels, or with grouped channels\)",
    ),
    "larger window at one position": (
        (lambda x: x * conv(size=3)(spatial_mean(x, keepdims=True)),),
        r"'Conv_1' \(vector\)",
    ),
    "layer of a repeated vector": (
        (lambda x: conv(size=3)(jnp.broadcast_to(spatial_mean(x, keepdims=True), x.shape)),),
        r"'Conv_1' \(repeated vector\)",
    ),
    "result with positions": ((lambda x: x, lambda x: conv(5)(spatial_mean(x, keepdims=True))), "not .batch, classes"),
    "vmapped": ((jax.vmap(lambda x: spatial_mean(x[None])[0] + x),), "within jax.vmap"),
    "BatchNorm of rows": ((nn.BatchNorm(use_running_average=True, axis=1),), "normalises along axis 1"),
    "one dimension": ((nn.Conv(8, (3,)),), "is a convolution in 1 dimensions"),
    "mask": ((nn.Conv(8, (3, 3), mask=np.ones((3, 3, 8, 8))),), "has a mask"),
    "product of one's own": ((nn.Dense(8, dot_general=jax.lax.dot_general),), "computes by a function of its own"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    parts, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        recorded(Around(*parts))


class Plain(nn.Module):
    """Without an argument `train`."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(spatial_mean(nn.relu(nn.Conv(8, (3, 3))(x))))


class Demanding(Plain):
    @nn.compact
    def __call__(self, x, labels):
        return nn.Dense(5)(spatial_mean(x))


def test_arguments_of_networks():
    model, variables, program = recorded(Plain())
    wanted = model.apply(variables, images(2, 16, 16) / np.float32(255))
    assert_same(InferenceModel(program, UNIT, runtime="jax").logits(images(2, 16, 16)), wanted)
    with pytest.raises(UserError, match=r"called with images and train=False, .* alone"):
        program_of(Demanding(), {}, 16)


def test_recording_leaves_functions_as_they_were():
    """Under jax.jit they are traced once for all; a recording's trace must not be what others find."""
    model, variables, _ = recorded(Around(*RIGHT["jitted mean"]))
    assert model.apply(variables, jnp.ones((2, 16, 16, 3))).shape == (2, 5)
    recorded(Around(lambda x: x, lambda x: nn.Dense(3)(mean(x))))


@pytest.mark.parametrize(
    "runtime", ["jax", pytest.param("native", marks=pytest.mark.skipif(no_compiler, reason="g++"))]
)
def test_small_images_are_refused(runtime):
    """By rows and by columns apart."""
    layers = [nn.Conv(8, (3, 3), strides=(1, 4)), nn.Conv(8, (3, 3), strides=(2, 1))]
    _, _, program = recorded(Around(nn.Sequential(layers)))
    assert program.strides == (2, 4)
    model = InferenceModel(program, UNIT, runtime=runtime)
    assert model.logits(images(1, 2, 4)).shape == (1, 5)
    for shape in ((1, 1, 16), (1, 16, 3), (1, 0, 0)):
        with pytest.raises(
            UserError, match=f"images of {shape[1]}x{shape[2]} are too small for this network; .* 2x4 on"
        ):
            model.logits(images(*shape))


def test_images_that_do_not_fit():
    """Maps that are of one size only where the image is even: the network itself raises an error too."""
    _, _, program = recorded(Around(lambda x: conv(size=3, strides=2)(x) + max_pool(x, 2, 2, "VALID")))
    model = InferenceModel(program, UNIT, runtime="jax")
    assert model.logits(images(1, 16, 16)).shape == (1, 5)
    with pytest.raises(UserError, match="images of 19x16 do not fit this network: add got incompatible shapes"):
        model.logits(images(1, 19, 16))


def test_class_names_are_as_many_as_outputs():
    program = recorded(Plain())[2]
    with pytest.raises(UserError, match="there are 4 class names for a network of 5 outputs"):
        InferenceModel(program, UNIT, ["a", "b", "c", "d"], runtime="jax")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("layer", "path"), [("DynamicConv_0", "kernels"), ("Dense_0", "kernel")])
def test_a_diverged_network_does_not_look_healthy(layer, path, value):
    """int8 has no NaN: it would be a weight of 0."""
    model = Around(lambda x: dynet_jax.DynamicConv(8, (3, 3))(x))
    variables = recorded(model)[1]
    weights = variables["params"][layer]
    weights[path] = weights[path].at[(0,) * weights[path].ndim].set(value)
    program = program_of(model, variables, 16)
    with pytest.raises(UserError, match=f"{layer}: weights that are not finite cannot be stored as int8"):
        InferenceModel(program, UNIT, runtime="jax", storage="int8")
    for storage in ("float32", "bfloat16"):
        assert not np.isfinite(
            InferenceModel(program, UNIT, runtime="jax", storage=storage).logits(images(1, 16, 16))
        ).all()


def test_activations_are_operations():
    wanted = ["relu", "relu6", "silu", "hard_swish", "sigmoid", "hard_sigmoid", "silu", *ACTIVATIONS]
    program = recorded(Around(every_activation))[2]
    assert [op.activation for op in program.operations if isinstance(op, Convolution)] == wanted


def test_what_folding_leaves():
    """BatchNorm of a vector goes into the layer before it; a vector is added by itself."""
    head = recorded(Around(*RIGHT["BatchNorm in the head"]))[2].operations
    assert [type(operation) for operation in head[-2:]] == [Dense, Dense]
    assert head[-2].activation == "relu"
    residual = recorded(Around(*RIGHT["residual of one position"]))[2].operations
    assert [op.residual for op in residual if isinstance(op, Convolution)] == [None, None]


def test_strides_of_pooling():
    pool, part = MaxPool("pool", 0, 1, 3, 2, "SAME"), Channels("part", (1,), 2, 1, 3)
    assert program_of_operations((pool, part), 2).strides == (2, 2)


def around_predictor(norm):
    class Predicted(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            (coefficients,) = CoefficientPredictor(
                (8,), 2, CoefficientSpec(normalize_pooled=True), norm, name="predictor"
            )(x)
            return nn.Dense(5)(spatial_mean(DynamicConv(8, (3, 3), group_size=2)(x, coefficients)))

    return Predicted()


@pytest.mark.slow
def test_a_pooled_batchnorm_without_parameters_is_folded_too():
    norm = functools.partial(nn.BatchNorm, use_running_average=True, use_scale=False, use_bias=False)
    model, variables, program = recorded(around_predictor(norm))
    x = images(2, 19, 16)
    assert_same(InferenceModel(program, UNIT, runtime="jax").logits(x), model.apply(variables, x / np.float32(255)))


def test_another_norm_of_pooled_features_is_refused():
    with pytest.raises(UserError, match="predictor normalises pooled features by LayerNorm; programs have BatchNorm"):
        recorded(around_predictor(nn.LayerNorm))
