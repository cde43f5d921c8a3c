"""ResNet18 and ResNet50, and the networks that DyNet derives from them: Dy-ResNet and its static twin Fix-ResNet.

The argument `stem` lists the features of the first convolutions at width 1.0. (64,) is the paper's 7x7 convolution.
Several are consecutive 3x3 convolutions, like PSPNet's (64, 64, 128), which the paper's segmentation baseline has.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn

from dynet_jax.errors import UserError
from dynet_jax.layers.blocks import Block, ConvSpec, Dynamic
from dynet_jax.models.fcn import register_fcn
from dynet_jax.models.network import Network, make_divisible
from dynet_jax.models.peers import cond_conv, dy_cnn
from dynet_jax.models.registry import PREDICTORS, register_model
from dynet_jax.ops.maps import Map, activate

WIDTHS, STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)  # of the four stages
REPEATS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
BOTTLENECK_EXPANSION = 4
# With the paper's recipe, coefficients of these networks change more slowly between images than kernels change. Of the
# factors tried on CIFAR-10 at width 0.125, this one is the best (docs/results.md, `benchmarks.predictor_speed`).
SMALL_IMAGES = {"model.hidden_divisor": None, "learning_rate_factors": ((PREDICTORS, 25.0),)}
DY_RESNET = Dynamic(hidden_divisor=4)  # the predictor has a hidden layer of C_in / 4 (section 3.3)


class BlockSpec(NamedTuple):
    """Two 3x3 convolutions or, with `hidden_features`, the bottleneck 1x1, 3x3, 1x1; the first 3x3 has `strides`."""

    features: int
    strides: int
    hidden_features: int | None = None
    dilations: tuple[int, int] = (1, 1)


class ResidualBlock(Block):
    """The block of ResNet v1.5 and of Dy-ResNet (Fig. 4c, 4d), as described by its spec. The shortcut is static."""

    has_residual = True
    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Map) -> Map:
        features, strides, hidden, (before, after) = self.spec
        if hidden is None:
            specs = {
                "conv1": ConvSpec(features, 3, strides, kernel_dilation=before),
                "conv2": ConvSpec(features, 3, kernel_dilation=after),
            }
        else:
            specs = {
                "conv1": ConvSpec(hidden),
                "conv2": ConvSpec(hidden, 3, strides, kernel_dilation=before),
                "conv3": ConvSpec(features),
            }
        unit = self.layers.units(x, specs)
        *inner, last = specs
        y = x
        for name in inner:
            y = unit(name, y, "relu")
        y = unit(last, y, zero_scale=True)  # a block starts as its shortcut (Goyal et al., 2017)
        if strides != 1 or before != after or x.shape[-1] != features:
            x = self.layers.unit("shortcut", x, ConvSpec(features, strides=strides))
        return activate(self.layers.residual(x, y), "relu")


@register_fcn
@register_model(title="ResNet18", torchvision="resnet18", timm="resnet18")
def resnet18(num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,)) -> Network:
    """Returns ResNet18 (He et al., 2016). 1814.1M MACs with the classifier."""
    return _resnet(18, num_classes, width, stem, dynamic=None)


@register_fcn(recipe={"stem": (64, 64, 128)})  # PSPNet's stem, which reproduces the FLOPs of Table 3
@register_model(title="ResNet50", torchvision="resnet50", timm="resnet50")
def resnet50(num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,)) -> Network:
    """Returns ResNet50, with the stride on the 3x3 (v1.5). 4089.2M MACs with the classifier."""
    return _resnet(50, num_classes, width, stem, dynamic=None)


@register_fcn
@register_model(title="Dy-ResNet18", base="resnet18", twin="fix_resnet18", small_images=SMALL_IMAGES)
def dy_resnet18(
    num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,), group_size: int = 6
) -> Network:
    """Returns Dy-ResNet18 (section 3.3): dynamic blocks with half the channels. 577.5M MACs, 594.4M with fusion."""
    dynamic = dataclasses.replace(DY_RESNET, group_size=group_size)
    return _resnet(18, num_classes, width, stem, dynamic, halve=True)


@register_fcn
@register_model(title="Dy-ResNet50", base="resnet50", twin="fix_resnet50", small_images=SMALL_IMAGES)
def dy_resnet50(
    num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,), group_size: int = 6
) -> Network:
    """Returns Dy-ResNet50 (section 3.3): dynamic blocks with half the channels. 1127.4M MACs, 1169.1M with fusion."""
    dynamic = dataclasses.replace(DY_RESNET, group_size=group_size)
    return _resnet(50, num_classes, width, stem, dynamic, halve=True)


@register_model(title="Fix-ResNet18", base="resnet18")
def fix_resnet18(num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,)) -> Network:
    """Returns Dy-ResNet18 with static convolutions."""
    return _resnet(18, num_classes, width, stem, dynamic=None, halve=True)


@register_model(title="Fix-ResNet50", base="resnet50")
def fix_resnet50(num_classes: int = 1000, width: float = 1.0, stem: Sequence[int] = (64,)) -> Network:
    """Returns Dy-ResNet50 with static convolutions."""
    return _resnet(50, num_classes, width, stem, dynamic=None, halve=True)


@register_model(title="CondConv-ResNet18", base="resnet18")
def condconv_resnet18(num_classes: int = 1000, width: float = 1.0, group_size: int = 8) -> Network:
    """Returns ResNet18 with CondConv (Yang et al., 2019) in the main branch of its blocks."""
    return _resnet(18, num_classes, width, (64,), cond_conv(group_size))


@register_model(title="DY-CNN-ResNet18", base="resnet18")
def dy_cnn_resnet18(
    num_classes: int = 1000, width: float = 1.0, group_size: int = 4, temperature: float = 30.0
) -> Network:
    """Returns ResNet18 with DY-CNN's convolution (Chen et al., 2020) in the main branch of its blocks."""
    return _resnet(18, num_classes, width, (64,), dy_cnn(group_size, temperature))


def _resnet(depth, num_classes, width, stem, dynamic, halve=False):
    if isinstance(stem, int) or not stem:
        raise UserError(f"stem must be a sequence of features, such as (64,) or (64, 64, 128), not {stem!r}")
    stem = [make_divisible(features * width) for features in stem]
    convs = (ConvSpec(stem[0], 7, strides=2),)
    if len(stem) > 1:
        convs = (ConvSpec(stem[0], 3, strides=2), *(ConvSpec(features, 3) for features in stem[1:]))
    return Network(
        block=ResidualBlock,
        stages=tuple(_stages(depth, width, halve)),
        stem=convs,
        stem_pool=True,
        head=None,
        hidden_features=None,
        activation="relu",
        num_classes=num_classes,
        dynamic=dynamic,
    )


def _stages(depth, width, halve):
    for features, repeats, strides in zip(WIDTHS, REPEATS[depth], STRIDES):
        features = make_divisible(features * width) // (2 if halve else 1)
        spec = BlockSpec(features, strides)
        if depth == 50:
            spec = BlockSpec(BOTTLENECK_EXPANSION * features, strides, hidden_features=features)
        yield (spec, *[spec._replace(strides=1)] * (repeats - 1))
