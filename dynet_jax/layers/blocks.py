"""The building blocks of all network families: convolutions with BatchNorm and activation, static or dynamic.

A block takes and returns feature maps in any form (`dynet_jax.ops.maps`). It creates convolutions through `Layers`, and
does everything else with functions of `dynet_jax.layers`: `add`, `concatenate`, `split`, `spatial_mean`,
`channel_shuffle`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Shaped

from dynet_jax.errors import UserError
from dynet_jax.layers.conv import Conv
from dynet_jax.layers.dynamic import DynamicConv
from dynet_jax.layers.image_noise import dropout
from dynet_jax.layers.predictor import CoefficientPredictor, CoefficientSpec
from dynet_jax.layers.whole import spatial_mean
from dynet_jax.ops.implementation import feature_map
from dynet_jax.ops.maps import Map, activate, add, scale
from dynet_jax.ops.window import Padding

# The initialisation of MobileNetV2's and ResNet's reference implementations.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class Dynamic(CoefficientSpec):
    """The settings of a network's dynamic convolutions. A network with None in place of these settings is static.

    Attributes:
      predictor_per: 'block': one predictor on the block's input serves all its convolutions, as in DyNet; 'layer': each
        convolution has its own, on its own input, as in CondConv and DY-CNN.
      The other attributes are those of `CoefficientSpec`.
    """

    predictor_per: Literal["block", "layer"] = "block"

    def __post_init__(self):
        super().__post_init__()
        if self.predictor_per not in ("block", "layer"):
            raise UserError(f"predictor_per must be 'block' or 'layer', not {self.predictor_per!r}")


class ConvSpec(NamedTuple):
    """One convolution of a block; fields have the names of `Conv`'s arguments."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    feature_group_count: int = 1
    kernel_dilation: int = 1


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layer factory of a network's blocks, so that static and dynamic networks share all code of a block.

    Its methods create Flax modules, so call them in a `compact` method.

    Attributes:
      norm: creates a BatchNorm.
      dynamic, padding, dtype, zero_init_residual: as in `Network`.
      opaque: whether the maps that blocks exchange may be opaque.
      drop_rate, site: the probability with which stochastic depth drops the block's branch, and the block's number.
    """

    norm: Callable[..., nn.Module]
    dynamic: Dynamic | None = None
    padding: Padding = "SAME"
    zero_init_residual: bool = True
    dtype: Any = None
    opaque: bool = False
    drop_rate: float = 0.0
    site: int = 0

    def residual(self, x: Map, y: Map) -> Map:
        """Returns x + y, the shortcut and the branch of a residual block; y is 0 for an image with `drop_rate`."""
        return add(x, dropout(y, self.drop_rate, self.site, whole_images=True) if self.drop_rate else y)

    def feature_map(self, x: Map) -> Map:
        """Returns x in the form in which the network's blocks exchange maps."""
        return feature_map(x) if self.opaque else x

    def unit(
        self, name: str, x: Map, spec: ConvSpec, activation: str | None = None, *, zero_scale: bool = False
    ) -> Map:
        """Returns a static convolution `name` of x, followed by its BatchNorm `name_norm` and an activation.

        The BatchNorm's scale is initialised to 1, or to 0 with zero_scale.
        """
        return self._unit(Conv, name, x, spec, None, activation, zero_scale)

    def units(self, x: Map, specs: Mapping[str, ConvSpec]) -> Callable[..., Map]:
        """Returns a function that applies the units of a block with input x; they are dynamic if the network is.

        specs: the block's convolutions by name. The function has the arguments of `unit` without a spec: (name, y,
        activation=None, zero_scale=False).
        """
        conv, coefficients = Conv, dict.fromkeys(specs)
        if self.dynamic is not None:
            conv = functools.partial(DynamicConv, spec=self.dynamic, norm=self.norm)
            if self.dynamic.predictor_per == "block":
                features = tuple(spec.features for spec in specs.values())
                predictor = CoefficientPredictor(
                    features, spec=self.dynamic, norm=self.norm, dtype=self.dtype, name="predictor"
                )
                coefficients = dict(zip(specs, predictor(x)))

        def unit(name: str, y: Map, activation: str | None = None, *, zero_scale: bool = False) -> Map:
            return self._unit(conv, name, y, specs[name], coefficients[name], activation, zero_scale)

        return unit

    def _unit(self, conv, name, x, spec, coefficients, activation, zero_scale):
        layer = conv(
            **spec._asdict() | {"kernel_size": (spec.kernel_size,) * 2},
            padding=self.padding,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=conv_init,
            name=name,
        )
        y, zero_scale = layer(x, coefficients), zero_scale and self.zero_init_residual
        scale_init = nn.initializers.zeros_init() if zero_scale else nn.initializers.ones_init()
        return activate(self.norm(scale_init=scale_init, name=f"{name}_norm")(y), activation)


class Block(nn.Module):
    """The base class of blocks that operate on feature maps; any other module of a network receives and returns arrays.

    Attributes:
      spec: the entry for the block in the family's table of stages; it has `strides` and `dilations`.
      layers: the factory of its convolutions.
      has_residual: whether blocks of this kind may add a branch to a shortcut, by `Layers.residual`.
    """

    has_residual: ClassVar[bool] = False
    spec: Any
    layers: Layers


class SqueezeExcite(nn.Module):
    """Channel attention of MobileNetV3 (Howard et al., 2019): average pool, two 1x1 convolutions, hard sigmoid."""

    hidden_features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Shaped[Map, "batch height width channels"]) -> Shaped[Map, "batch height width channels"]:
        """Returns the map with its channels scaled."""
        mean = spatial_mean(x, keepdims=True)
        gate = activate(Conv(self.hidden_features, (1, 1), dtype=self.dtype, name="reduce")(mean), "relu")
        gate = Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="expand")(gate)
        return scale(x, activate(gate, "hard_sigmoid"))
