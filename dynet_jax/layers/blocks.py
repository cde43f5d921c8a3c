"""What the blocks of all families share: convolutions, static or dynamic, with their BatchNorm, and small layers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax

from dynet_jax.errors import UserError
from dynet_jax.layers.conv import Conv
from dynet_jax.layers.dynamic import CoefficientPredictor, DynamicConv
from dynet_jax.layers.whole import spatial_mean
from dynet_jax.ops.normalized import READ_ACTIVATIONS, Normalized, as_array, channel_sums
from dynet_jax.ops.strips import cut_with_margins, join, strips_of
from dynet_jax.ops.window import Padding, make_window

# The init of MobileNetV2's and ResNet's reference implementations.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

ACTIVATIONS = {"relu": nn.relu, "relu6": nn.relu6, "hard_swish": nn.hard_swish}

Map = jax.Array | Normalized


def activate(activation: str, x: Map) -> Map:
    """One of `ACTIVATIONS` of a map; that of one to be normalised is left to its reader, too, if readers know it."""
    if isinstance(x, Normalized) and x.activation is None and activation in READ_ACTIVATIONS:
        return dataclasses.replace(x, activation=activation)
    return ACTIVATIONS[activation](as_array(x))


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """How a network's dynamic convolutions get their coefficients. With None in its place the network is static.

    Attributes:
      group_size: g_t, the fixed kernels behind one dynamic kernel.
      hidden_divisor: a hidden layer of C_in / hidden_divisor (4 in Dy-ResNet), or None for a single layer.
      min_hidden_features: the least width of that hidden layer; narrow networks would have a unit or two.
      predictor_per: 'block': one predictor on the block's input serves all its convolutions, as in DyNet; 'layer': each
        convolution has its own, on its own input, as in CondConv and DY-CNN.
      coefficient_scope, activation, temperature, annealed: see `CoefficientPredictor`.
      normalize_pooled: whether a BatchNorm normalises the pooled features before the predictor's layers.

    Raises UserError for a value that is none of these: it must not end in a network that is static by mistake.
    """

    group_size: int = 6
    hidden_divisor: int | None = None
    min_hidden_features: int = 1
    predictor_per: Literal["block", "layer"] = "block"
    coefficient_scope: Literal["channel", "layer"] = "channel"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    temperature: float = 1.0
    annealed: bool = False
    normalize_pooled: bool = False

    def __post_init__(self):
        if not _is_positive_int(self.group_size):
            raise UserError(f"group_size must be a positive int (6 in the paper), not {self.group_size!r}")
        if self.hidden_divisor is not None and not _is_positive_int(self.hidden_divisor):
            raise UserError(
                f"hidden_divisor must be a positive int (4 in Dy-ResNet), or None for no hidden layer, not "
                f"{self.hidden_divisor!r}"
            )
        if not _is_positive_int(self.min_hidden_features):
            raise UserError(f"min_hidden_features must be a positive int, not {self.min_hidden_features!r}")
        if self.min_hidden_features > 1 and self.hidden_divisor is None:
            raise UserError(
                f"min_hidden_features={self.min_hidden_features} is the width of a hidden layer; set hidden_divisor too"
            )
        for option in ("annealed", "normalize_pooled"):
            if type(getattr(self, option)) is not bool:
                raise UserError(f"{option} must be True or False, not {getattr(self, option)!r}")
        if self.predictor_per not in ("block", "layer"):
            raise UserError(f"predictor_per must be 'block' or 'layer', not {self.predictor_per!r}")
        if not self.temperature > 0:
            raise UserError(f"temperature must be positive (30 in DY-CNN's first epoch), not {self.temperature!r}")

    def predictor_options(self, c_in: int) -> dict[str, Any]:
        """Arguments of the predictor of a map with `c_in` channels."""
        return {
            "group_size": self.group_size,
            "hidden_features": self.hidden_divisor and max(self.min_hidden_features, c_in // self.hidden_divisor),
            "coefficient_scope": self.coefficient_scope,
            "activation": self.activation,
            "temperature": self.temperature,
            "annealed": self.annealed,
        }


def _is_positive_int(value: Any) -> bool:
    return type(value) is int and value > 0


class ConvSpec(NamedTuple):
    """One convolution of a block, by the argument names of `Conv`."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    feature_group_count: int = 1
    kernel_dilation: int = 1


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers that a network hands to its blocks, so that static and dynamic networks share every line of a block.

    Its methods make Flax modules: call them in a `compact` method.

    Attributes:
      norm: makes a BatchNorm.
      dynamic, padding, dtype, zero_init_residual: as in `Network`.
      deferred: whether its BatchNorms are; then maps between layers are `Normalized`, `activate` is what applies an
        activation to them, and `as_array` makes them arrays.
    """

    norm: Callable[..., nn.Module]
    dynamic: Dynamic | None = None
    padding: Padding = "SAME"
    zero_init_residual: bool = True
    dtype: Any = None
    deferred: bool = False

    def conv_norm(self, name: str, x: Map, spec: ConvSpec, *, zero_scale: bool = False) -> Map:
        """A static convolution `name` and its BatchNorm `name_norm`, whose scale begins at 1; at 0 with zero_scale."""
        return self._conv_norm(Conv, name, x, spec, None, zero_scale)

    def stem(self, name: str, x: jax.Array, spec: ConvSpec) -> Map:
        """The same, before blocks with grouped or pointwise kernels: in strips, if maps of its size are cut for them.

        XLA would otherwise change the layout of the network's largest map.
        """
        size, strips = (spec.kernel_size,) * 2, None
        if self.deferred:
            padded, window = make_window(x, size, spec.strides, self.padding, spec.kernel_dilation)
            strips = strips_of((x.shape[0], *window.output_shape(padded.shape[1:3]), spec.features))
        if strips in (None, 1):
            return self.conv_norm(name, x, spec)
        y = self._conv(Conv, name, spec, ((0, 0), window.padding[1]))(cut_with_margins(padded, window, strips))
        return self._norm(name)(join(y, strips), channel_sums(y, strips)).in_strips(strips)

    def for_block(self, x: Map, specs: Mapping[str, ConvSpec]) -> Callable[..., Map]:
        """The convolutions of a block with input x, dynamic if the network is.

        Returns a function (name, y, zero_scale=False) -> BatchNorm(convolution `name` of y).
        """
        conv, coefficients = Conv, dict.fromkeys(specs)
        if self.dynamic is not None and self.dynamic.predictor_per == "block":
            conv = functools.partial(DynamicConv, group_size=self.dynamic.group_size)
            features = tuple(spec.features for spec in specs.values())
            predictor = self._predictor(x.shape[-1])(features, dtype=self.dtype, name="predictor")
            coefficients = dict(zip(specs, predictor(x)))

        def conv_norm(name: str, y: Map, zero_scale: bool = False) -> Map:
            own = conv
            if self.dynamic is not None and self.dynamic.predictor_per == "layer":
                predictor = self._predictor(y.shape[-1])
                own = functools.partial(DynamicConv, group_size=self.dynamic.group_size, make_predictor=predictor)
            return self._conv_norm(own, name, y, specs[name], coefficients[name], zero_scale)

        return conv_norm

    def _predictor(self, c_in):
        norm = functools.partial(self.norm, deferred=False) if self.dynamic.normalize_pooled else None
        return functools.partial(CoefficientPredictor, norm=norm, **self.dynamic.predictor_options(c_in))

    def _conv_norm(self, conv, name, x, spec, coefficients, zero_scale):
        layer, norm = self._conv(conv, name, spec, self.padding), self._norm(name, zero_scale)
        if self.deferred and conv is not Conv:
            return norm(*layer(x, coefficients, with_sums=True))
        return norm(layer(as_array(x), coefficients))

    def _conv(self, conv, name, spec, padding):
        return conv(
            **spec._asdict() | {"kernel_size": (spec.kernel_size,) * 2},
            padding=padding,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=conv_init,
            name=name,
        )

    def _norm(self, name, zero_scale=False):
        zero_scale = zero_scale and self.zero_init_residual
        scale_init = nn.initializers.zeros_init() if zero_scale else nn.initializers.ones_init()
        return self.norm(scale_init=scale_init, name=f"{name}_norm")


class SqueezeExcite(nn.Module):
    """Channel attention of MobileNetV3 (Howard et al., 2019): average pool, two 1x1 convolutions, hard sigmoid."""

    hidden_features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same."""
        mean = spatial_mean(x, keepdims=True)
        gate = nn.relu(Conv(self.hidden_features, (1, 1), dtype=self.dtype, name="reduce")(mean))
        return x * nn.hard_sigmoid(Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="expand")(gate))
