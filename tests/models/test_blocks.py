"""One dynamic block of every family against plain numpy, written from the papers' descriptions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynet_jax import BatchNorm
from dynet_jax.layers.blocks import Dynamic, Layers
from dynet_jax.layers.whole import channel_shuffle
from dynet_jax.models import mobilenet, resnet, shufflenet
from dynet_jax.models.peers import cond_conv, dy_cnn
from tests import reference

GROUP_SIZE = 3


class NumpyBlock:
    """The arithmetic of a block on its parameters, in float64; convolutions by loops."""

    def __init__(self, variables):
        self.params, self.statistics = variables["params"], variables["batch_stats"]

    def predict(self, x, widths, name="predictor", squash=lambda logits: 1 / (1 + np.exp(-logits))):
        """[batch, g, width] for every width: pool, fully connected (twice if there is a hidden layer), sigmoid."""
        dense, y = self.params[name], x.mean((1, 2))
        if "hidden" in dense:
            y = np.maximum(0, y @ dense["hidden"]["kernel"] + dense["hidden"]["bias"])
        y = y @ dense["coefficients"]["kernel"] + dense["coefficients"]["bias"]
        parts = np.split(y, np.cumsum([GROUP_SIZE * width for width in widths])[:-1], axis=1)
        return [squash(part.reshape(len(x), GROUP_SIZE, width)) for part, width in zip(parts, widths)]

    def dynamic(self, name, y, coefficients, **options):
        return self.norm(name, reference.dynamic_conv(y, self.params[name]["kernels"], coefficients, **options))

    def static(self, name, y, **options):
        kernel = self.params[name]["kernel"]
        return self.norm(name, reference.conv_per_example(y, np.stack([kernel] * len(y)), **options))

    def norm(self, name, y):
        statistics, params = self.statistics[f"{name}_norm"], self.params[f"{name}_norm"]
        return (y - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params["scale"] + params["bias"]


def relu(y):
    assert (y < 0).any()
    return np.maximum(0, y)


def relu6(y):
    assert (y > 6).any()
    return np.minimum(6, relu(y))


def hard_sigmoid(y):
    return np.clip(y + 3, 0, 6) / 6


def softmax_over_kernels(logits, temperature):
    e = np.exp(logits / temperature)
    return e / e.sum(1, keepdims=True)


def mobile_block(block, x):
    """Section 3.3, Fig. 4a: one predictor on the input; 1x1, 3x3 of 6 channels a group, 1x1; 12 channels throughout."""
    eta = block.predict(x, (12, 12, 12))
    y = relu6(block.dynamic("expand", x, eta[0]))
    y = relu6(block.dynamic("spatial", y, eta[1], feature_group_count=2))
    return x + block.dynamic("project", y, eta[2])


def mobilenet_v2_block(block, x):
    """MobileNetV2's own block, 6 -> 24 -> 8 with stride 2, its depthwise convolution dynamic too: no residual."""
    eta = block.predict(x, (24, 24, 8))
    y = relu6(block.dynamic("expand", x, eta[0]))
    y = relu6(block.dynamic("spatial", y, eta[1], feature_group_count=24, strides=2))
    return block.dynamic("project", y, eta[2])


def mobilenet_v3_block(block, x):
    """MobileNetV3's: 5x5 depthwise, hard swish, squeeze-excite after the activation of the depthwise convolution."""
    eta = block.predict(x, (16, 16, 8))
    y = block.dynamic("expand", x, eta[0])
    y = y * hard_sigmoid(y)
    y = block.dynamic("spatial", y, eta[1], feature_group_count=16)
    y = y * hard_sigmoid(y)
    gate, layers = y.mean((1, 2)), block.params["squeeze_excite"]
    gate = np.maximum(0, gate @ layers["reduce"]["kernel"][0, 0] + layers["reduce"]["bias"])
    gate = hard_sigmoid(gate @ layers["expand"]["kernel"][0, 0] + layers["expand"]["bias"])
    return x + block.dynamic("project", y * gate[:, None, None], eta[2])


def shuffle_block(block, x):
    """Fig. 4b: left : right = 3 : 1 of 16 channels, the predictor on the right, 2 channels a group; then shuffled."""
    left, right = x[..., :12], x[..., 12:]
    eta = block.predict(right, (4, 4, 4))
    right = relu(block.dynamic("conv1", right, eta[0]))
    right = block.dynamic("conv2", right, eta[1], feature_group_count=2)
    right = relu(block.dynamic("conv3", right, eta[2]))
    return shuffled(np.concatenate([left, right], -1))


def shuffle_down_block(block, x):
    """ShuffleNetV2's, 6 -> 16 channels: a static projection that keeps the 6, and a dynamic branch that adds 10."""
    eta = block.predict(x, (8, 8, 10))
    right = relu(block.dynamic("conv1", x, eta[0]))
    right = block.dynamic("conv2", right, eta[1], feature_group_count=8, strides=2)
    right = relu(block.dynamic("conv3", right, eta[2]))
    left = block.static("project1", x, feature_group_count=6, strides=2)
    left = relu(block.static("project2", left))
    return shuffled(np.concatenate([left, right], -1))


def shuffled(y):
    """Channels of the first half at even places, of the second half at odd ones."""
    half, out = y.shape[-1] // 2, np.empty_like(y)
    out[..., 0::2], out[..., 1::2] = y[..., :half], y[..., half:]
    return out


def resnet18_block(block, x):
    """Fig. 4c, 8 -> 6 channels with stride 2: two dynamic 3x3, a static 1x1 shortcut, a hidden layer of 8 / 4."""
    eta = block.predict(x, (6, 6))
    assert block.params["predictor"]["hidden"]["kernel"].shape == (8, 2)
    y = relu(block.dynamic("conv1", x, eta[0], strides=2))
    return relu(block.dynamic("conv2", y, eta[1]) + block.static("shortcut", x, strides=2))


def resnet50_block(block, x):
    """Fig. 4d, 8 -> 8 channels through 4: 1x1, 3x3, 1x1, all dynamic, and the identity."""
    eta = block.predict(x, (4, 4, 8))
    y = relu(block.dynamic("conv1", x, eta[0]))
    y = relu(block.dynamic("conv2", y, eta[1]))
    return relu(x + block.dynamic("conv3", y, eta[2]))


def condconv_block(block, x):
    """CondConv: a sigmoid per kernel, from each convolution's own input."""
    routed = lambda name, y: block.predict(y, (1,), name)[0]  # noqa: E731
    y = relu(block.dynamic("conv1", x, routed("conv1_predictor", x)))
    return relu(x + block.dynamic("conv2", y, routed("conv2_predictor", y)))


def dy_cnn_block(block, x):
    """DY-CNN: a softmax over the kernels at temperature 30, from each convolution's own input, two layers."""
    softmax = functools.partial(softmax_over_kernels, temperature=30)
    attention = lambda name, y: block.predict(y, (1,), name, softmax)[0]  # noqa: E731
    y = relu(block.dynamic("conv1", x, attention("conv1_predictor", x)))
    return relu(x + block.dynamic("conv2", y, attention("conv2_predictor", y)))


V2 = mobilenet.BlockSpec(24, 8, 2, 24, expand=True)
V3 = mobilenet.BlockSpec(16, 8, 1, 16, True, kernel_size=5, squeeze_features=4, activation="hard_swish")
DOWN = shufflenet.BlockSpec(6, 8, 10, 2, 8, split=False)
DYNET, DY_RESNET = Dynamic(GROUP_SIZE), Dynamic(GROUP_SIZE, hidden_divisor=4)
BLOCKS = {
    "dy_mobile": (mobile_block, mobilenet.InvertedResidual, mobilenet.BlockSpec(12, 12, 1, 2, True), DYNET, 12),
    "dy_mobilenet_v2": (mobilenet_v2_block, mobilenet.InvertedResidual, V2, DYNET, 6),
    "dy_mobilenet_v3": (mobilenet_v3_block, mobilenet.InvertedResidual, V3, DYNET, 8),
    "dy_shuffle": (shuffle_block, shufflenet.ShuffleBlock, shufflenet.BlockSpec(12, 4, 4, 1, 2, True), DYNET, 16),
    "dy_shuffle_down": (shuffle_down_block, shufflenet.ShuffleBlock, DOWN, DYNET, 6),
    "dy_resnet18": (resnet18_block, resnet.ResidualBlock, resnet.BlockSpec(6, 2), DY_RESNET, 8),
    "dy_resnet50": (resnet50_block, resnet.ResidualBlock, resnet.BlockSpec(8, 1, 4), DY_RESNET, 8),
    "condconv_resnet18": (condconv_block, resnet.ResidualBlock, resnet.BlockSpec(8, 1), cond_conv(GROUP_SIZE), 8),
    "dy_cnn_resnet18": (dy_cnn_block, resnet.ResidualBlock, resnet.BlockSpec(8, 1), dy_cnn(GROUP_SIZE), 8),
}


def random_variables(block, x, rng):
    """Weights of both signs, and coefficients far from their middle."""
    tree = jax.eval_shape(block.init, jax.random.key(0), x)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        low, high = (0.2, 1.5) if "'var'" in name else (-0.6, 1.0) if "'kernel" in name else (-1.0, 1.0)
        low, high = (1.0, 3.0) if "'scale'" in name else (low, high)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, tree)


def for_numpy(variables):
    """Returns the parameters with the predictor of each convolution under its own name."""
    params = dict(variables["params"])
    params |= {f"{name}_predictor": layer["predictor"] for name, layer in params.items() if "predictor" in layer}
    return {**variables, "params": params}


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 4e-2)], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_the_papers(name, dtype, tolerance):
    numpy_block, module, spec, dynamic, channels = BLOCKS[name]
    rng = np.random.default_rng(1)
    layers = Layers(functools.partial(BatchNorm, use_running_average=True), dynamic, dtype=dtype)
    x = jnp.asarray(4 * rng.normal(size=(2, 5, 6, channels)), dtype)
    block = module(spec, layers)
    variables = random_variables(block, x, rng)

    got = reference.jit(block.apply)(variables, x)
    expected = numpy_block(NumpyBlock(for_numpy(variables)), np.asarray(x, np.float64))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_deals_like_cards(groups):
    x = np.arange(24).reshape(2, 12)
    hands = np.split(x, groups, axis=-1)
    expected = np.stack([hand[:, i] for i in range(12 // groups) for hand in hands], axis=-1)
    np.testing.assert_array_equal(channel_shuffle(jnp.asarray(x), groups), expected)


def test_odd_channels_are_refused():
    with pytest.raises(ValueError, match="29 channels cannot be shuffled in 2 groups; use a multiple of 2"):
        channel_shuffle(jnp.ones((1, 2, 2, 29)))


def test_a_split_must_fit():
    layers = Layers(functools.partial(BatchNorm, use_running_average=True))
    block = shufflenet.ShuffleBlock(shufflenet.BlockSpec(12, 4, 4, 1, 2, split=True), layers)
    with pytest.raises(ValueError, match="17 channels cannot be split in 12 and 4"):
        jax.eval_shape(block.init, jax.random.key(0), jnp.ones((1, 4, 4, 17)))
