"""The frame that all networks share: stem, stages of blocks, head, classifier."""

import dataclasses
import functools
import itertools
import math
import numbers
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.errors import UserError
from dynet_jax.layers import BatchNorm
from dynet_jax.layers.blocks import Block, ConvSpec, Dynamic, Layers
from dynet_jax.layers.image_noise import dropout
from dynet_jax.layers.whole import max_pool, spatial_mean
from dynet_jax.ops.maps import activate, to_array
from dynet_jax.ops.window import Padding


class Network(nn.Module):
    """An image classifier, or a backbone: stem, stages of blocks, an optional 1x1 convolution, pool, classifier.

    A family of networks is a block and a table of stages. The fields without a default are the network's structure,
    set by the family's builders; the others are options of every network.

    Attributes:
      block: the module of one block, called as `block(spec, layers)(x)`: a `dynet_jax.layers.blocks.Block`, or any
        module of arrays.
      stages: for every stage, the specs of its blocks. A spec has `strides` and `dilations`.
      stem: the first convolutions; static, like head and classifier.
      stem_pool: whether a 3x3 max-pool with stride 2 follows the stem.
      head: the last convolution, or None.
      hidden_features: width of the classifier's hidden layer, or None.
      activation: of stem, head and hidden layer; a key of `dynet_jax.ops.maps.ACTIVATIONS`.
      num_classes: outputs of the classifier.
      dynamic: settings of the blocks' dynamic convolutions, or None for static ones.
      small_input: for images of about 32x32: the first two reductions of the resolution are omitted (and the stem's
        kernel is at most 3x3), so that the network's stride is 8 instead of 32.
      output_stride: for dense prediction, 8 or 16 (or the network's own 32): the resolution stays the same from there
        on, and dilations replace the strides. None is the network's own stride.
      remat: whether the backward pass recomputes every block instead of storing its activations: a third more
        arithmetic, and room for larger batches. The values are the same.
      zero_init_residual: whether the last BatchNorm of a residual branch starts with a scale of 0, so that blocks start
        as their shortcuts (Goyal et al., 2017); it has no effect on networks without residual branches.
      padding: 'SAME', or 'TORCH' for weights trained in PyTorch (it differs for a stride of 2 and an even size).
      dropout: probability with which training sets a feature before the classifier to 0 (Srivastava et al., 2014).
      stochastic_depth: probability with which training drops the branch of the last residual block, for each image; it
        rises linearly from block to block (Huang et al., 2016).
      bn_batch_size, bn_axis_name, bn_momentum, bn_epsilon, bn_unbiased: see `BatchNorm`.
      dtype: of the computation; parameters and statistics stay float32. Logits are float32.
    """

    block: type[nn.Module]
    stages: tuple[tuple[Any, ...], ...]
    stem: tuple[ConvSpec, ...]
    stem_pool: bool
    head: ConvSpec | None
    hidden_features: int | None
    activation: str
    num_classes: int
    dynamic: Dynamic | None
    small_input: bool = False
    output_stride: int | None = None
    remat: bool = False
    zero_init_residual: bool = True
    padding: Padding = "SAME"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    bn_batch_size: int | None = None
    bn_axis_name: str | tuple[str, ...] | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.num_classes, numbers.Integral) or self.num_classes < 1:
            raise UserError(f"num_classes must be a positive int, not {self.num_classes!r}")
        if self.output_stride not in (None, 8, 16, 32):
            raise UserError(f"output_stride must be 8, 16, 32 or None, not {self.output_stride!r}")
        if self.output_stride is not None and self.stride != self.output_stride:
            raise UserError(f"output_stride={self.output_stride} is above the network's own stride of {self.stride}")
        if type(self.zero_init_residual) is not bool:
            raise UserError(f"zero_init_residual must be True or False, not {self.zero_init_residual!r}")
        if not self.bn_epsilon > 0:
            raise UserError(f"bn_epsilon must be positive, not {self.bn_epsilon!r}")
        for rate in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, rate) < 1:
                raise UserError(f"{rate} must be at least 0 and less than 1, not {getattr(self, rate)!r}")
        if self.stochastic_depth and not getattr(self.block, "has_residual", False):
            raise UserError("stochastic_depth drops branches of residual blocks, and this network has none; leave it 0")
        if self.padding not in ("SAME", "TORCH"):
            raise UserError(f"padding must be 'SAME' or 'TORCH', not {self.padding!r}")

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features_only: bool = False
    ) -> jax.Array | OrderedDict[str, jax.Array]:
        """Returns logits [batch, num_classes] of normalised images [batch, height, width, 3].

        With features_only it returns the feature maps after the stem and after every stage, as
        {'stem': ..., 'stage1': ..., ...}, without the parameters or the cost of head and classifier.
        Raises UserError for images smaller than the network's stride.
        """
        if images.ndim != 4:
            raise UserError(f"images must be [batch, height, width, channels], not of shape {images.shape}")
        self._check_size(images.shape[1:3])
        layers, features = self.layers(train), OrderedDict()  # JAX sorts the keys of a plain dict
        pool = self.stem_pool and not self.small_input
        x = images.astype(self.dtype)
        x = x if pool else layers.feature_map(x)
        for index, spec in enumerate(self.planned_stem, start=1):
            x = layers.unit("stem" if len(self.stem) == 1 else f"stem{index}", x, spec, self.activation)
        features["stem"] = x
        x = layers.feature_map(max_pool(x, 3, 2, self.padding)) if pool else x
        block = nn.remat(self.block) if self.remat else self.block
        numbers_of_blocks = itertools.count(1)
        for stage, specs in enumerate(self.planned_stages, start=1):
            for index, spec in enumerate(specs, start=1):
                of_block = self._with_depth(layers, next(numbers_of_blocks), train)
                x = block(spec, of_block, name=f"stage{stage}_block{index}")(x)
            features[f"stage{stage}"] = x
        if features_only:
            return OrderedDict((name, to_array(x)) for name, x in features.items())

        if self.head is not None:
            x = layers.unit("head", x, self.head, self.activation)
        x = spatial_mean(to_array(x).astype(jnp.float32))
        if self.hidden_features is not None:
            x = activate(nn.Dense(self.hidden_features, name="hidden")(x), self.activation)
        if train and self.dropout:
            x = dropout(x, self.dropout, site=0)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(x)

    @property
    def planned_stem(self) -> tuple[ConvSpec, ...]:
        """Returns the stem's convolutions, modified by `small_input`."""
        if not self.small_input:
            return self.stem
        return tuple(spec._replace(strides=1, kernel_size=min(3, spec.kernel_size)) for spec in self.stem)

    @property
    def planned_stages(self) -> tuple[tuple[Any, ...], ...]:
        """Returns the stages, with the strides and dilations of `small_input` and `output_stride`."""
        return tuple(tuple(stage) for stage in self._plan())

    @property
    def stride(self) -> int:
        """Returns the ratio of the image's size to that of the last feature map."""
        return self._stem_stride * math.prod(spec.strides for stage in self.planned_stages for spec in stage)

    @property
    def _stem_stride(self) -> int:
        pool = 2 if self.stem_pool and not self.small_input else 1
        return pool * math.prod(spec.strides for spec in self.planned_stem)

    def _plan(self) -> Iterator[list[Any]]:
        stride, dilation = self._stem_stride, 1
        to_skip = 1 if self.small_input and not self.stem_pool else 0  # with a pool, the stem has two reductions
        for stage in self.stages:
            planned = []
            for spec in stage:
                strides, before = spec.strides, dilation
                if strides > 1 and to_skip:
                    strides, to_skip = 1, to_skip - 1
                elif self.output_stride and stride * strides > self.output_stride:
                    strides, dilation = 1, dilation * strides
                stride *= strides
                planned.append(spec._replace(strides=strides, dilations=(before, dilation)))
            yield planned

    def layers(self, train: bool) -> Layers:
        """Returns the factory of layers for the network's blocks; a head on a backbone uses it too."""
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            bn_batch_size=self.bn_batch_size,
            axis_name=self.bn_axis_name,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
        )
        return Layers(
            norm=norm,
            opaque=train and self.dynamic is not None and issubclass(self.block, Block),
            dynamic=self.dynamic,
            padding=self.padding,
            zero_init_residual=self.zero_init_residual,
            dtype=self.dtype,
        )

    def _with_depth(self, layers: Layers, number: int, train: bool) -> Layers:
        """Returns the layers of the block of this number, from 1 on, with its probability of stochastic depth."""
        if not (train and self.stochastic_depth):
            return layers
        rate = self.stochastic_depth * number / sum(map(len, self.stages))
        return dataclasses.replace(layers, drop_rate=rate, site=number)

    def _check_size(self, size):
        if min(size) < self.stride:
            smallest = self.small_input or self.output_stride
            cure = "larger images" if smallest else "larger images, or small_input=True (stride 8)"
            raise UserError(
                f"images of {size[0]}x{size[1]} are too small for a network of stride {self.stride}: use {cure}; "
                "images are [batch, height, width, channels]"
            )


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Returns a scaled width by MobileNetV2's rule: the nearest multiple, but never more than 10 % smaller.

    Raises UserError if no channel would be left.
    """
    if not 0.5 <= channels < math.inf:
        raise UserError(
            f"a layer cannot have {channels:.3g} channels: width must be a positive number (1.0 in the paper), and "
            "large enough to leave a channel"
        )
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
