"""DynamicConv and the module that predicts its coefficients (DyNet, section 3.2, Fig. 1 and 3)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from dynet_jax import ops
from dynet_jax.layers.conv import kernel_shape
from dynet_jax.layers.whole import spatial_mean
from dynet_jax.ops.dynamic_conv import Fusion
from dynet_jax.ops.normalized import Normalized
from dynet_jax.ops.window import Padding

TEMPERATURE = "temperature"  # the variable of an annealed predictor


class CoefficientPredictor(nn.Module):
    """Global average pool -> one or two fully connected layers -> sigmoid; one predictor may serve several layers.

    Attributes:
      features: output channels of each dynamic convolution that it serves.
      group_size: g_t, the number of fixed kernels behind one dynamic kernel.
      hidden_features: width of a hidden layer with ReLU (C_in / 4 in Dy-ResNet), or None for a single layer.
      coefficient_scope: 'channel' gives every output channel its own g_t coefficients (DyNet); 'layer' gives one per
        kernel, shared by all channels, as in CondConv and DY-CNN.
      activation: 'sigmoid' (DyNet, CondConv), or 'softmax' over the g_t kernels (DY-CNN).
      temperature: divides the logits before the activation. DyNet has none.
      annealed: whether the temperature is a variable, `temperature` [] in batch_stats, which begins at `temperature`
        and which training lowers or raises (DY-CNN lowers it from 30 to 1).
      norm: makes a BatchNorm of the pooled features, or None; it is called with `name` alone.

    CondConv is `coefficient_scope='layer', activation='sigmoid'`; DY-CNN is `coefficient_scope='layer',
    activation='softmax'` with `temperature` and, in its paper, `hidden_features=C_in // 4`.

    >>> import jax, jax.numpy as jnp
    >>> predictor = CoefficientPredictor(features=(24, 24, 36), group_size=6)
    >>> coefficients, _ = predictor.init_with_output(jax.random.key(0), jnp.ones((2, 14, 14, 16)))
    >>> [c.shape for c in coefficients]
    [(2, 6, 24), (2, 6, 24), (2, 6, 36)]
    """

    features: Sequence[int]
    group_size: int = 6
    hidden_features: int | None = None
    coefficient_scope: Literal["channel", "layer"] = "channel"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    temperature: float = 1.0
    annealed: bool = False
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | Normalized) -> tuple[jax.Array, ...]:
        """x: [batch, *spatial, C_in] -> one [batch, group_size, features[i]] per layer served.

        With coefficient_scope='layer' the last axis has length 1. Raises ValueError for an unknown scope or activation.
        """
        if self.coefficient_scope not in ("channel", "layer"):
            raise ValueError(f"coefficient_scope must be 'channel' or 'layer', not {self.coefficient_scope!r}")
        if self.activation not in ("sigmoid", "softmax"):
            raise ValueError(f"activation must be 'sigmoid' or 'softmax', not {self.activation!r}")
        channels = [f if self.coefficient_scope == "channel" else 1 for f in self.features]
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        with jax.named_scope("predictor"):
            y = spatial_mean(x)
            if self.norm is not None:
                y = self.norm(name="norm")(y)
            if self.hidden_features is not None:
                y = nn.relu(dense(self.hidden_features, name="hidden")(y))
            # Nearly equal coefficients for all images to begin with: the network starts static, and trains better.
            dense = functools.partial(dense, kernel_init=nn.initializers.normal(0.01))
            logits = dense(self.group_size * sum(channels), name="coefficients")(y)
            logits = logits / self._temperature(logits.dtype)
            offsets = [self.group_size * sum(channels[:i]) for i in range(1, len(channels))]
            logits = [
                part.reshape(part.shape[0], self.group_size, c)
                for part, c in zip(jnp.split(logits, offsets, -1), channels)
            ]
            activate = nn.sigmoid if self.activation == "sigmoid" else lambda v: nn.softmax(v, axis=1)
            return tuple(activate(part) for part in logits)

    def _temperature(self, dtype):
        if not self.annealed:
            return self.temperature
        start = functools.partial(jnp.asarray, self.temperature, jnp.float32)
        return self.variable("batch_stats", TEMPERATURE, start).value.astype(dtype)


class DynamicConv(nn.Module):
    r"""A convolution whose kernel is generated for each image: a drop-in replacement for `flax.linen.Conv`.

    $\tilde w_t = \sum_i \eta_t^i(x) w_t^i$ (Eq. 1): for every output channel t, `group_size` fixed kernels are summed
    with coefficients predicted from the image. Works in 1-D, 2-D and 3-D, with strides, dilation and groups.

    Called with x alone, the layer owns a `CoefficientPredictor` that reads x. Called with coefficients, it uses those:
    one predictor can then serve all the layers of a block, as in the paper's networks.

    Attributes:
      features, kernel_size, strides, padding, kernel_dilation, feature_group_count, use_bias, dtype, param_dtype,
        precision, kernel_init, bias_init: as in `flax.linen.Conv`, by name; there is no `input_dilation` and no `mask`.
        `kernel_init` is called once per kernel of the bank, so that it sees an ordinary kernel's fan-in.
      group_size: g_t, the number of fixed kernels per dynamic kernel; 1 is channel attention.
      hidden_features, coefficient_scope, activation, temperature: of the layer's own `CoefficientPredictor`.
      make_predictor: makes that predictor instead, with all its options but `features`, `dtype`, `param_dtype` and
        `name`, which it is called with.
      fusion: 'kernel' (Eq. 1), 'feature' (Eq. 2), or 'auto' for the faster one; the result is the same.

    Parameters: `kernels` [group_size, *kernel_size, C_in / groups, features], `bias` [features] and, where the layer
    owns its predictor, `predictor`.

    >>> import jax, jax.numpy as jnp
    >>> layer = DynamicConv(features=64, kernel_size=(3, 3), strides=2)
    >>> x = jnp.ones((2, 32, 32, 16))
    >>> y, variables = layer.init_with_output(jax.random.key(0), x)
    >>> y.shape, variables["params"]["kernels"].shape
    ((2, 16, 16, 64), (6, 3, 3, 16, 64))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    group_size: int = 6
    hidden_features: int | None = None
    coefficient_scope: Literal["channel", "layer"] = "channel"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    temperature: float = 1.0
    make_predictor: Callable[..., CoefficientPredictor] | None = None
    fusion: Fusion = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: jax.Array | Normalized, coefficients: jax.Array | None = None, with_sums: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """x: [*batch, *spatial, C_in] -> [*batch, *output_spatial, features].

        coefficients, if given: [batch, group_size, features], or [batch, group_size, 1].
        x may be a map that is to be normalised when it is read, and with_sums asks for the sums of the result, too,
        for a BatchNorm that follows (see `dynet_jax.ops.dynamic_conv`): then there is one axis for the batch and no
        bias. Raises ValueError if shapes do not fit one another.
        """
        shape = kernel_shape(x, self.features, self.kernel_size, self.feature_group_count)
        split = x.ndim - len(shape) + 1
        if (with_sums or isinstance(x, Normalized)) and (split != 1 or (with_sums and self.use_bias)):
            raise ValueError("normalised maps and sums are for one axis of images and layers with use_bias=False")
        batch_shape = x.shape[:split]
        if split != 1:
            x = x.reshape(math.prod(batch_shape), *x.shape[split:])
        kernels = self.param("kernels", self._init_bank, shape)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        if coefficients is None:
            coefficients = self._predict(x)
        raw = x.x if isinstance(x, Normalized) else x
        raw, kernels, coefficients, bias = promote_dtype(raw, kernels, coefficients, bias, dtype=self.dtype)
        x = dataclasses.replace(x, x=raw) if isinstance(x, Normalized) else raw
        y = ops.dynamic_conv(
            x,
            kernels,
            coefficients,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            fusion=self.fusion,
            precision=self.precision,
            with_sums=with_sums,
        )
        if with_sums:
            return y
        if bias is not None:
            y = y + bias
        return y.reshape(*batch_shape, *y.shape[1:])

    def _init_bank(self, key, shape):
        keys = jax.random.split(key, self.group_size)
        # One after another: a vmap gives the same numbers and takes XLA nearly twice as long to compile.
        return jax.lax.map(lambda k: self.kernel_init(k, shape, self.param_dtype), keys)

    def _predict(self, x):
        make = self.make_predictor or functools.partial(
            CoefficientPredictor,
            group_size=self.group_size,
            hidden_features=self.hidden_features,
            coefficient_scope=self.coefficient_scope,
            activation=self.activation,
            temperature=self.temperature,
        )
        return make(features=(self.features,), dtype=self.dtype, param_dtype=self.param_dtype, name="predictor")(x)[0]
