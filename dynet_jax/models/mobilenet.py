"""MobileNetV2 and the networks that DyNet derives from it: Dy-mobile, its twin Fix-mobile, and Dy-MobileNetV2."""

from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn

from dynet_jax.layers.blocks import Block, ConvSpec, Dynamic, SqueezeExcite
from dynet_jax.models.fcn import register_fcn
from dynet_jax.models.network import Network, make_divisible
from dynet_jax.models.peers import cond_conv, dy_cnn, with_coefficients
from dynet_jax.models.registry import register_model
from dynet_jax.ops.maps import Map

# MobileNetV2, Table 2: expansion, features, repeats, strides.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

SMALL_IMAGES = {"model.normalize_pooled": True}  # the best of those tried on CIFAR-10 at width 0.125 (docs/results.md)


class BlockSpec(NamedTuple):
    """One block: 1x1 to `hidden_features` (if `expand`), grouped k x k with `strides`, 1x1 to `features`."""

    hidden_features: int
    features: int
    strides: int
    feature_group_count: int
    expand: bool
    kernel_size: int = 3
    squeeze_features: int | None = None  # of squeeze-excite before the last convolution; None for none
    activation: str = "relu6"
    dilations: tuple[int, int] = (1, 1)


class InvertedResidual(Block):
    """The block of MobileNetV2 and V3 and of Dy-mobile (Fig. 4a), as described by its spec."""

    has_residual = True
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Map) -> Map:
        spec, activation = self.spec, self.spec.activation
        specs = {"expand": ConvSpec(spec.hidden_features)} if spec.expand else {}
        specs["spatial"] = ConvSpec(
            spec.hidden_features, spec.kernel_size, spec.strides, spec.feature_group_count, spec.dilations[0]
        )
        specs["project"] = ConvSpec(spec.features)
        unit = self.layers.units(x, specs)
        y = unit("expand", x, activation) if spec.expand else x
        y = unit("spatial", y, activation)
        if spec.squeeze_features is not None:
            y = SqueezeExcite(spec.squeeze_features, self.layers.dtype, name="squeeze_excite")(y)
        # A stride that dilation replaces still counts as a stride: the block has no residual at any resolution.
        residual = spec.strides == 1 and spec.dilations[0] == spec.dilations[1] and x.shape[-1] == spec.features
        # Residual blocks start as the identity (Goyal et al., 2017), which helps such narrow, deep networks to train.
        y = unit("project", y, zero_scale=residual)
        return self.layers.residual(x, y) if residual else y


@register_fcn
@register_model(title="MobileNetV2", torchvision="mobilenet_v2", timm="mobilenetv2_100")
def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> Network:
    """Returns MobileNetV2 (Sandler et al., 2018), without dropout. 300.8M MACs with the classifier at width 1.0."""
    return _mobilenet(_mobilenet_v2_stages(width), num_classes, width, dynamic=None)


@register_fcn
@register_model(title="Dy-mobile", base="mobilenet_v2", twin="fix_mobile", family="mobile", small_images=SMALL_IMAGES)
def dy_mobile(num_classes: int = 1000, width: float = 1.0, group_size: int = 6, coefficients: str = "dynet") -> Network:
    """Returns Dy-mobile (section 3.3): all blocks dynamic, no expansion. 136.4M MACs with the classifier at width 1.0.

    coefficients: 'dynet', or 'condconv' or 'dy_cnn' to compare these with the paper's (see `with_coefficients`).
    """
    dynamic = with_coefficients(coefficients, Dynamic(group_size))
    return _mobilenet(_dy_mobile_stages(width), num_classes, width, dynamic)


@register_model(title="Fix-mobile", base="mobilenet_v2", family="mobile")
def fix_mobile(num_classes: int = 1000, width: float = 1.0) -> Network:
    """Returns Fix-mobile (Table 4): Dy-mobile with static convolutions. 130.5M MACs with the classifier, width 1.0."""
    return _mobilenet(_dy_mobile_stages(width), num_classes, width, dynamic=None)


@register_model(title="Dy-MobileNetV2", base="mobilenet_v2")
def dy_mobilenet_v2(num_classes: int = 1000, width: float = 1.0, group_size: int = 6) -> Network:
    """Returns Dy-MobileNetV2 (Fig. 5 and 6): MobileNetV2 with its own widths and expansion, and dynamic blocks."""
    return _mobilenet(_mobilenet_v2_stages(width), num_classes, width, Dynamic(group_size))


@register_model(title="CondConv-MobileNetV2", base="mobilenet_v2")
def condconv_mobilenet_v2(num_classes: int = 1000, width: float = 1.0, group_size: int = 8) -> Network:
    """Returns MobileNetV2 with CondConv (Yang et al., 2019) in its blocks: one sigmoid per kernel and layer."""
    return _mobilenet(_mobilenet_v2_stages(width), num_classes, width, cond_conv(group_size))


@register_model(title="DY-CNN-MobileNetV2", base="mobilenet_v2")
def dy_cnn_mobilenet_v2(
    num_classes: int = 1000, width: float = 1.0, group_size: int = 4, temperature: float = 30.0
) -> Network:
    """Returns MobileNetV2 with DY-CNN's layers (Chen et al., 2020) in its blocks: softmax attention over kernels."""
    return _mobilenet(_mobilenet_v2_stages(width), num_classes, width, dy_cnn(group_size, temperature))


def _mobilenet(stages: Iterable, num_classes: int, width: float, dynamic: Dynamic | None) -> Network:
    return Network(
        block=InvertedResidual,
        stages=tuple(stages),
        stem=(ConvSpec(make_divisible(32 * width), 3, strides=2),),
        stem_pool=False,
        head=ConvSpec(make_divisible(1280 * max(1.0, width))),
        hidden_features=None,
        activation="relu6",
        num_classes=num_classes,
        dynamic=dynamic,
    )


def _mobilenet_v2_stages(width):
    c_in = make_divisible(32 * width)
    for expansion, features, repeats, strides in STAGES:
        features, stage = make_divisible(features * width), []
        for repeat in range(repeats):
            hidden = expansion * c_in
            stage.append(BlockSpec(hidden, features, strides if repeat == 0 else 1, hidden, expand=expansion != 1))
            c_in = features
        yield tuple(stage)


def _dy_mobile_stages(width):
    """Yields Dy-mobile's stages: no expansion; features are multiples of 6, for 6 channels per group (section 3.3)."""
    for _, features, repeats, strides in STAGES:
        features = -(-make_divisible(features * width) // 6) * 6
        first = BlockSpec(features, features, strides, features // 6, expand=True)
        yield (first, *[first._replace(strides=1)] * (repeats - 1))
