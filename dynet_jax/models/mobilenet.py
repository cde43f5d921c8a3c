"""MobileNetV2 and the networks that DyNet makes of it: Dy-mobile, and Fix-mobile, its static twin.

All are a stem, a row of three-layer blocks, a 1x1 convolution and a classifier. A network is its row of `BlockSpec`s
and the kind of convolution inside the blocks: static, or dynamic with one coefficient predictor per block.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.errors import UserError
from dynet_jax.layers import BatchNorm, CoefficientPredictor, Conv, DynamicConv
from dynet_jax.models.registry import register_model

# MobileNetV2, Table 2: expansion, features, repeats, strides.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

# The init of MobileNetV2's and ResNet's reference implementations.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BlockSpec(NamedTuple):
    """One block: 1x1 to `hidden_features` (if `expand`), 3x3 in `groups` with `strides`, 1x1 to `features`."""

    hidden_features: int
    features: int
    strides: int
    groups: int
    expand: bool


class InvertedResidual(nn.Module):
    """MobileNetV2's block and Dy-mobile's (Fig. 4a), by its spec. `group_size` None makes it static."""

    spec: BlockSpec
    group_size: int | None
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden, features, strides, groups, expand = self.spec
        widths = (hidden, hidden, features) if expand else (hidden, features)
        if self.group_size is None:
            conv, coefficients = Conv, [None] * len(widths)
        else:
            conv = functools.partial(DynamicConv, group_size=self.group_size)
            predictor = CoefficientPredictor(widths, group_size=self.group_size, dtype=self.dtype, name="predictor")
            coefficients = list(predictor(x))
        conv = functools.partial(conv, use_bias=False, dtype=self.dtype, kernel_init=conv_init)

        y = x
        if expand:
            y = conv(hidden, (1, 1), name="expand")(y, coefficients.pop(0))
            y = nn.relu6(self.norm(name="expand_norm")(y))
        y = conv(hidden, (3, 3), strides, feature_group_count=groups, name="spatial")(y, coefficients.pop(0))
        y = nn.relu6(self.norm(name="spatial_norm")(y))
        y = conv(features, (1, 1), name="project")(y, coefficients.pop(0))
        residual = strides == 1 and x.shape[-1] == features
        # Residual blocks begin as the identity (Goyal et al., 2017), which helps such narrow, deep networks to train.
        scale_init = nn.initializers.zeros_init() if residual else nn.initializers.ones_init()
        y = self.norm(scale_init=scale_init, name="project_norm")(y)
        return x + y if residual else y


class MobileNet(nn.Module):
    """Stem, blocks, head, classifier.

    Attributes:
      blocks: the network's row of blocks.
      stem_features, head_features: channels after the first and the last convolution; both are static.
      num_classes: outputs of the classifier.
      group_size: g_t of the blocks' dynamic convolutions, or None for static ones.
      small_input: for images of about 32x32: the stem and the first strided block keep the resolution, so that the
        network's stride is 8 instead of 32.
      bn_batch_size, bn_axis_name: see `BatchNorm`.
      dtype: of the computation; parameters and statistics stay float32. Logits are float32.
    """

    blocks: tuple[BlockSpec, ...]
    stem_features: int
    head_features: int
    num_classes: int
    group_size: int | None
    small_input: bool = False
    bn_batch_size: int | None = None
    bn_axis_name: str | tuple[str, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """images: [batch, height, width, 3], normalised -> logits [batch, num_classes]."""
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            bn_batch_size=self.bn_batch_size,
            axis_name=self.bn_axis_name,
            dtype=self.dtype,
        )
        conv = functools.partial(Conv, use_bias=False, dtype=self.dtype, kernel_init=conv_init)
        x = conv(self.stem_features, (3, 3), 1 if self.small_input else 2, name="stem")(images.astype(self.dtype))
        x = nn.relu6(norm(name="stem_norm")(x))
        for index, spec in enumerate(self._specs(), start=1):
            x = InvertedResidual(spec, self.group_size, norm, self.dtype, name=f"block{index}")(x)
        x = conv(self.head_features, (1, 1), name="head")(x)
        x = nn.relu6(norm(name="head_norm")(x))
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        classifier = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classifier")
        return classifier(x)

    def _specs(self):
        if not self.small_input:
            return self.blocks
        first = next(i for i, spec in enumerate(self.blocks) if spec.strides > 1)
        return (*self.blocks[:first], self.blocks[first]._replace(strides=1), *self.blocks[first + 1 :])


@register_model
def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> MobileNet:
    """MobileNetV2 (Sandler et al., 2018), without dropout. 300.8M MACs with the classifier at width 1.0."""
    return _mobilenet(_mobilenet_v2_blocks(width), num_classes, width, group_size=None)


@register_model
def dy_mobile(num_classes: int = 1000, width: float = 1.0, group_size: int = 6) -> MobileNet:
    """Dy-mobile (section 3.3): every block dynamic, none expands. 136.4M MACs with the classifier at width 1.0."""
    if not isinstance(group_size, int) or group_size < 1:
        raise UserError(f"group_size must be a positive int (6 in the paper), not {group_size!r}")
    return _mobilenet(_dy_mobile_blocks(width), num_classes, width, group_size=group_size)


@register_model
def fix_mobile(num_classes: int = 1000, width: float = 1.0) -> MobileNet:
    """Fix-mobile (Table 4): Dy-mobile with plain convolutions. 130.5M MACs with the classifier at width 1.0."""
    return _mobilenet(_dy_mobile_blocks(width), num_classes, width, group_size=None)


def _mobilenet(blocks, num_classes, width, group_size):
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes must be a positive int, not {num_classes!r}")
    return MobileNet(
        blocks=blocks,
        stem_features=make_divisible(32 * width),
        head_features=make_divisible(1280 * max(1.0, width)),
        num_classes=num_classes,
        group_size=group_size,
    )


def _mobilenet_v2_blocks(width):
    specs, c_in = [], make_divisible(32 * width)
    for expansion, features, repeats, strides in STAGES:
        features = make_divisible(features * width)
        for repeat in range(repeats):
            hidden = expansion * c_in
            specs.append(BlockSpec(hidden, features, strides if repeat == 0 else 1, hidden, expand=expansion != 1))
            c_in = features
    return tuple(specs)


def _dy_mobile_blocks(width):
    """No expansion; the 3x3 has 6 channels per group, so features are rounded up to a multiple of 6 (section 3.3)."""
    specs = []
    for _, features, repeats, strides in STAGES:
        features = -(-make_divisible(features * width) // 6) * 6
        for repeat in range(repeats):
            specs.append(BlockSpec(features, features, strides if repeat == 0 else 1, features // 6, expand=True))
    return tuple(specs)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """MobileNetV2's rounding of a scaled width: to the nearest multiple, but never down by more than 10 %."""
    if not 0 < channels < math.inf:
        raise UserError(f"a layer cannot have {channels} channels: width must be a positive number (1.0 in the paper)")
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
