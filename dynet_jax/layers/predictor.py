"""The prediction of dynamic convolutions' coefficients from an image (DyNet, section 3.2, Fig. 1 and 3)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from dynet_jax.errors import UserError
from dynet_jax.layers.whole import spatial_mean
from dynet_jax.ops.maps import Map

# Variables in batch_stats: the temperature of an annealed predictor, and the statistics of its `PooledLimit`.
TEMPERATURE, LIMIT = "temperature", "limit"


@dataclasses.dataclass(frozen=True)
class CoefficientSpec:
    """The number of coefficients per output channel, and the settings of their predictor.

    CondConv is `coefficient_scope='layer'`. DY-CNN is `coefficient_scope='layer', activation='softmax'` with a
    temperature and, as in its paper, `hidden_divisor=4`.

    Attributes:
      group_size: g_t, the number of fixed kernels per dynamic kernel; 1 is channel attention.
      hidden_features: width of the predictor's hidden layer, or None for a single layer.
      hidden_divisor: alternatively, the width relative to the input: C_in / hidden_divisor (4 in Dy-ResNet).
      min_hidden_features: the minimum of that width; in narrow networks it would otherwise be one or two units.
      coefficient_scope: 'channel' gives every output channel its own g_t coefficients (DyNet); 'layer' gives one per
        kernel, shared by all channels, as in CondConv and DY-CNN.
      activation: 'sigmoid' (DyNet, CondConv), or 'softmax' over the g_t kernels (DY-CNN).
      temperature: divides the logits before the activation. DyNet has none.
      annealed: whether the temperature is a variable, `temperature` [] in batch_stats, that starts at `temperature`
        and that training changes (DY-CNN lowers it from 30 to 1).
      normalize_pooled: whether a BatchNorm normalises the pooled features before the predictor's layers.
      pooled_limit: clips pooled features, in evaluation only, to this many standard deviations around their mean over
        the training images; None for no limit. Without a limit, an unusual image can make coefficients and feature
        maps diverge from block to block, which in training the batch statistics of BatchNorm prevent. Training is the
        same with it. Networks with unbounded activations and no residual sums need it (Dy-shuffle; 4 is ample).

    Raises UserError (a ValueError) for any other value.

    >>> CoefficientSpec(hidden_divisor=4, min_hidden_features=8).hidden_width(16)
    8
    """

    group_size: int = 6
    hidden_features: int | None = None
    hidden_divisor: int | None = None
    min_hidden_features: int = 1
    coefficient_scope: Literal["channel", "layer"] = "channel"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    temperature: float = 1.0
    annealed: bool = False
    normalize_pooled: bool = False
    pooled_limit: float | None = None

    def __post_init__(self):
        _check(self, "group_size", _is_positive_int, "a positive int (6 in the paper)")
        _check(self, "hidden_features", _is_none_or_positive_int, "a positive int, or None for no hidden layer")
        divisor = "a positive int (4 in Dy-ResNet), or None for no hidden layer"
        _check(self, "hidden_divisor", _is_none_or_positive_int, divisor)
        _check(self, "min_hidden_features", _is_positive_int, "a positive int")
        if self.min_hidden_features > 1 and self.hidden_divisor is None:
            raise UserError(
                f"min_hidden_features={self.min_hidden_features} is the width of a hidden layer; set hidden_divisor too"
            )
        if self.hidden_features is not None and self.hidden_divisor is not None:
            raise UserError("hidden_features and hidden_divisor both give the hidden layer's width; set one of them")
        _check(self, "coefficient_scope", ("channel", "layer").__contains__, "'channel' or 'layer'")
        _check(self, "activation", ("sigmoid", "softmax").__contains__, "'sigmoid' or 'softmax'")
        _check(self, "temperature", lambda value: value > 0, "positive (30 in DY-CNN's first epoch)")
        limit = "a positive number of standard deviations, or None for no limit"
        _check(self, "pooled_limit", lambda value: value is None or value > 0, limit)
        for option in ("annealed", "normalize_pooled"):
            _check(self, option, lambda value: type(value) is bool, "True or False")

    def hidden_width(self, c_in: int) -> int | None:
        """Returns the width of the hidden layer for a map of `c_in` channels, or None."""
        if self.hidden_divisor is None:
            return self.hidden_features
        return max(self.min_hidden_features, c_in // self.hidden_divisor)

    def channels(self, features: int) -> int:
        """Returns how many of a layer's `features` output channels have their own coefficients: all, or one."""
        return features if self.coefficient_scope == "channel" else 1


def _check(spec: Any, option: str, is_right: Callable[[Any], bool], right: str) -> None:
    if not is_right(getattr(spec, option)):
        raise UserError(f"{option} must be {right}, not {getattr(spec, option)!r}")


def _is_positive_int(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_none_or_positive_int(value: Any) -> bool:
    return value is None or _is_positive_int(value)


class CoefficientPredictor(nn.Module):
    """Global average pool, one or two fully connected layers, sigmoid; one predictor may serve several layers.

    Attributes:
      features: output channels of each dynamic convolution that it serves.
      group_size: g_t; None takes that of `spec`.
      spec: all other settings, see `CoefficientSpec`.
      norm: makes the BatchNorm of `spec.normalize_pooled`; it is called with `name` alone. `spec.pooled_limit` takes
        from it whether the network is in evaluation, and the momentum of running averages.

    >>> import jax, jax.numpy as jnp
    >>> predictor = CoefficientPredictor(features=(24, 24, 36), group_size=6)
    >>> coefficients, _ = predictor.init_with_output(jax.random.key(0), jnp.ones((2, 14, 14, 16)))
    >>> [c.shape for c in coefficients]
    [(2, 6, 24), (2, 6, 24), (2, 6, 36)]
    """

    features: Sequence[int]
    group_size: int | None = None
    spec: CoefficientSpec = CoefficientSpec()
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def resolved(self) -> CoefficientSpec:
        """Returns the spec with `group_size` set."""
        return with_group_size(self.spec, self.group_size)

    @nn.compact
    def __call__(
        self, x: Shaped[Map, "batch *spatial c_in"]
    ) -> tuple[Shaped[Array, "batch {self.resolved.group_size} _"], ...]:
        """Returns coefficients for every layer served, with `features[i]` as their last axis.

        With coefficient_scope='layer' the last axis has length 1. Raises ValueError if a BatchNorm is needed and `norm`
        is None.
        """
        spec, hidden_features = self.resolved, self.resolved.hidden_width(x.shape[-1])
        for option in ("normalize_pooled", "pooled_limit"):
            if getattr(spec, option) and self.norm is None:
                raise ValueError(f"{option} needs a BatchNorm; give norm=functools.partial(BatchNorm, ...)")
        make_norm: Any = self.norm
        channels = [spec.channels(features) for features in self.features]
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        with jax.named_scope("predictor"):
            y = spatial_mean(x)
            if spec.pooled_limit is not None:
                norm = make_norm(parent=None)
                y = PooledLimit(spec.pooled_limit, norm.use_running_average, norm.momentum, name=LIMIT)(y)
            if spec.normalize_pooled:
                y = make_norm(name="norm")(y)
            if hidden_features is not None:
                y = nn.relu(dense(hidden_features, name="hidden")(y))
            # Coefficients start nearly equal for all images: the network starts static, and trains better.
            dense = functools.partial(dense, kernel_init=nn.initializers.normal(0.01))
            logits = dense(spec.group_size * sum(channels), name="coefficients")(y)
            logits = logits / self._temperature(logits.dtype)
            return coefficients_of(logits, spec, channels)

    def _temperature(self, dtype):
        if not self.spec.annealed:
            return self.spec.temperature
        start = functools.partial(jnp.asarray, self.spec.temperature, jnp.float32)
        return self.variable("batch_stats", TEMPERATURE, start).value.astype(dtype)


def coefficients_of(
    logits: Shaped[Array, "batch outputs"], spec: CoefficientSpec, channels: Sequence[int]
) -> tuple[Shaped[Array, "batch {spec.group_size} _"], ...]:
    """Returns the coefficients of layers with so many channels each, of the outputs of a predictor's last layer.

    >>> logits = jnp.zeros((2, 18))
    >>> [c.shape for c in coefficients_of(logits, CoefficientSpec(group_size=2), [4, 5])]
    [(2, 2, 4), (2, 2, 5)]
    """
    offsets = [spec.group_size * sum(channels[:i]) for i in range(1, len(channels))]
    activate = nn.sigmoid if spec.activation == "sigmoid" else functools.partial(nn.softmax, axis=1)
    return tuple(
        activate(part.reshape(part.shape[0], spec.group_size, c))
        for part, c in zip(jnp.split(logits, offsets, -1), channels)
    )


class PooledLimit(nn.Module):
    """Clips pooled features in evaluation to `limit` standard deviations around their mean over the training images.

    In training it returns them unchanged, and keeps running averages of their mean and variance over the batch:
    `mean`, `var` [features] float32 in batch_stats.
    """

    limit: float
    use_running_average: bool
    momentum: float = 0.9

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        """Returns the features, [batch, features], clipped in evaluation."""
        mean = self.variable("batch_stats", "mean", jnp.zeros, y.shape[-1:], jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, y.shape[-1:], jnp.float32)
        if self.use_running_average:
            lower, upper = pooled_range(mean.value, var.value, self.limit)
            return jnp.clip(y, lower.astype(y.dtype), upper.astype(y.dtype))
        if not self.is_initializing():
            values, keep = jax.lax.stop_gradient(y).astype(jnp.float32), self.momentum
            mean.value = keep * mean.value + (1 - keep) * values.mean(axis=0)
            var.value = keep * var.value + (1 - keep) * values.var(axis=0)
        return y


def pooled_range(mean, var, limit: float):
    """Returns the lower and the upper limit of the pooled features, [features] each, as `PooledLimit` applies them."""
    return mean - limit * var**0.5, mean + limit * var**0.5


def with_group_size(spec: CoefficientSpec, group_size: int | None) -> CoefficientSpec:
    """Returns the spec with another number of kernels, or unchanged for None."""
    return spec if group_size is None else dataclasses.replace(spec, group_size=group_size)
