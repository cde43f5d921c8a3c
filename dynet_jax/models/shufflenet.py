"""ShuffleNetV2, and the networks that DyNet derives from it: Dy-shuffle and its static twin Fix-shuffle."""

from typing import Literal, NamedTuple

import flax.linen as nn

from dynet_jax.errors import UserError
from dynet_jax.layers.blocks import Block, ConvSpec, Dynamic
from dynet_jax.layers.whole import channel_shuffle
from dynet_jax.models.network import Network
from dynet_jax.models.registry import register_model
from dynet_jax.ops.maps import Map, concatenate, split

# Ma et al. (2018), Table 5: features of the three stages, and of the last convolution.
WIDTHS = {
    0.5: ((48, 96, 192), 1024),
    1.0: ((116, 232, 464), 1024),
    1.5: ((176, 352, 704), 1024),
    2.0: ((244, 488, 976), 2048),
}
REPEATS, STEM_FEATURES = (4, 8, 4), 24
# Without a limit, some test images drive coefficients and activations up from block to block (docs/results.md).
SMALL_IMAGES = {"model.pooled_limit": 4.0}


class BlockSpec(NamedTuple):
    """One block: `left_features` pass unchanged (without `split`: projected); the main branch has `right_features`."""

    left_features: int
    hidden_features: int
    right_features: int
    strides: int
    feature_group_count: int
    split: bool
    dilations: tuple[int, int] = (1, 1)


class ShuffleBlock(Block):
    """The blocks of ShuffleNetV2 and Dy-shuffle (Fig. 4b), as described by the spec. The projection is static."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Map) -> Map:
        """Returns [..., left_features + right_features]. Raises ValueError if the split does not fit the channels."""
        left_features, hidden, right_features, strides, groups, splits, dilations = self.spec
        if splits and x.shape[-1] != left_features + right_features:
            raise ValueError(f"{x.shape[-1]} channels cannot be split in {left_features} and {right_features}")
        left, right = split(x, left_features) if splits else (self._project(x), x)
        unit = self.layers.units(
            right,
            {
                "conv1": ConvSpec(hidden),
                "conv2": ConvSpec(hidden, 3, strides, groups, dilations[0]),
                "conv3": ConvSpec(right_features),
            },
        )
        right = unit("conv3", unit("conv2", unit("conv1", right, "relu")), "relu")
        return channel_shuffle(concatenate(left, right))

    def _project(self, x):
        c_in, spec = x.shape[-1], self.spec
        x = self.layers.unit("project1", x, ConvSpec(c_in, 3, spec.strides, c_in, spec.dilations[0]))
        return self.layers.unit("project2", x, ConvSpec(spec.left_features), "relu")


@register_model(title="ShuffleNetV2", torchvision="shufflenet_v2_x1_0", torch_arguments={"downsample": "torchvision"})
def shufflenet_v2(
    num_classes: int = 1000, width: float = 1.0, downsample: Literal["original", "torchvision"] = "original"
) -> Network:
    """Returns ShuffleNetV2 (Ma et al., 2018), width 0.5, 1.0, 1.5 or 2.0. 145.8M MACs with the classifier at 1.0.

    downsample: with 'original', where the resolution halves, the projection keeps its C_in channels and the main branch
    adds the rest, as in the authors' code and the paper's 146M. With 'torchvision', both branches give half of the
    channels (144.9M), as torchvision's weights need.
    """
    if downsample not in ("original", "torchvision"):
        raise UserError(f"downsample must be 'original' or 'torchvision', not {downsample!r}")
    return _shufflenet(num_classes, width, None, _static_split, keep_input=downsample == "original")


@register_model(title="Dy-shuffle", base="shufflenet_v2", twin="fix_shuffle", small_images=SMALL_IMAGES)
def dy_shuffle(num_classes: int = 1000, width: float = 1.0, group_size: int = 6) -> Network:
    """Returns Dy-shuffle (section 3.3): a dynamic right branch with a quarter of the channels. 98.3M MACs at 1.0."""
    return _shufflenet(num_classes, width, Dynamic(group_size), _dynamic_split)


@register_model(title="Fix-shuffle", base="shufflenet_v2")
def fix_shuffle(num_classes: int = 1000, width: float = 1.0) -> Network:
    """Returns Fix-shuffle (Table 4): Dy-shuffle with static convolutions."""
    return _shufflenet(num_classes, width, None, _dynamic_split)


def _shufflenet(num_classes, width, dynamic, split, keep_input=True):
    if width not in WIDTHS:
        raise UserError(f"width must be one of ShuffleNetV2's {', '.join(map(str, WIDTHS))}, not {width!r}")
    stage_features, head_features = WIDTHS[width]
    stages, c_in = [], STEM_FEATURES
    for features, repeats in zip(stage_features, REPEATS):
        hidden = features // 2
        left = c_in if keep_input else hidden
        down = BlockSpec(left, hidden, features - left, strides=2, feature_group_count=hidden, split=False)
        stages.append((down, *[split(features)] * (repeats - 1)))
        c_in = features
    return Network(
        block=ShuffleBlock,
        stages=tuple(stages),
        stem=(ConvSpec(STEM_FEATURES, 3, strides=2),),
        stem_pool=True,
        head=ConvSpec(head_features),
        hidden_features=None,
        activation="relu",
        num_classes=num_classes,
        dynamic=dynamic,
    )


def _static_split(features):
    """Returns ShuffleNetV2's block: half of the channels pass unchanged, the other half through a depthwise block."""
    half = features // 2
    return BlockSpec(half, half, half, strides=1, feature_group_count=half, split=True)


def _dynamic_split(features):
    """Returns Dy-shuffle's block: left : right = 3 : 1, right rounded down to even, for groups of two channels."""
    right = features // 4 // 2 * 2
    return BlockSpec(features - right, right, right, strides=1, feature_group_count=right // 2, split=True)
