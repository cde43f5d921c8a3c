"""Dynamic convolution for Flax NNX: the layers of `dynet_jax.layers` as NNX modules, over the same operations.

They are plain NNX modules, without random state after they have been made, so that networks of them work under
`nnx.jit` and `nnx.grad`, and under `jax.jit` and `jax.vmap` alike.

>>> import jax.numpy as jnp
>>> layer = DynamicConv(16, 64, (3, 3), strides=2, rngs=nnx.Rngs(0))
>>> layer(jnp.ones((2, 32, 32, 16))).shape
(2, 16, 16, 64)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Shaped

from dynet_jax.errors import UserError
from dynet_jax.layers.dynamic import convolve_batches, init_bank
from dynet_jax.layers.predictor import CoefficientSpec, coefficients_of, with_group_size
from dynet_jax.layers.whole import spatial_mean
from dynet_jax.ops.dynamic_conv import Fusion
from dynet_jax.ops.maps import Map, Operand, promote
from dynet_jax.ops.whole import whole
from dynet_jax.ops.window import Padding

OF_LINEN = ("annealed", "normalize_pooled", "pooled_limit")  # which have variables that training changes


class CoefficientPredictor(nnx.Module):
    """Global average pool, one or two fully connected layers, sigmoid; one predictor may serve several layers.

    Attributes:
      in_features: channels of the map that it reads.
      features: output channels of each dynamic convolution that it serves.
      group_size: g_t; None takes that of `spec`.
      spec: all other settings, see `CoefficientSpec`; `annealed`, `normalize_pooled` and `pooled_limit` belong to the
        Linen layer alone.

    Raises UserError for a setting of the Linen layer alone.

    >>> predictor = CoefficientPredictor(16, (24, 36), group_size=6, rngs=nnx.Rngs(0))
    >>> [c.shape for c in predictor(jnp.ones((2, 14, 14, 16)))]
    [(2, 6, 24), (2, 6, 36)]
    """

    def __init__(
        self,
        in_features: int,
        features: Sequence[int],
        *,
        group_size: int | None = None,
        spec: CoefficientSpec = CoefficientSpec(),  # noqa: B008  (it is frozen)
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.spec, self.features, self.dtype = with_group_size(spec, group_size), tuple(features), dtype
        for option in OF_LINEN:
            if getattr(self.spec, option):
                raise UserError(f"{option} is an option of the Linen layer, dynet_jax.CoefficientPredictor, alone")
        width, hidden = in_features, self.spec.hidden_width(in_features)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.hidden = nnx.data(None)
        if hidden is not None:
            self.hidden, width = nnx.Linear(width, hidden, **options), hidden
        outputs = self.spec.group_size * sum(map(self.spec.channels, self.features))
        # Coefficients start nearly equal for all images: the network starts static, and trains better.
        self.coefficients = nnx.Linear(width, outputs, kernel_init=nnx.initializers.normal(0.01), **options)

    def __call__(self, x: Shaped[Map, "batch *spatial c_in"]) -> tuple[Shaped[Array, "batch group_size _"], ...]:
        """Returns coefficients for every layer served, with `features[i]` as their last axis.

        With coefficient_scope='layer' the last axis has length 1.
        """
        layers: list[Any] = [self.coefficients] if self.hidden is None else [self.hidden, self.coefficients]
        weights = [(layer.kernel[...], layer.bias[...]) for layer in layers]
        return predict_coefficients(x, weights, self.spec, self.features, self.dtype)


@whole
def predict_coefficients(
    x: Shaped[Map, "batch *spatial c_in"],
    weights: Sequence[tuple[Operand, Operand]],
    spec: CoefficientSpec,
    features: Sequence[int],
    dtype: Any = None,
) -> tuple[Shaped[Array, "batch group_size _"], ...]:
    """Returns the coefficients of layers with so many features; weights: (kernel, bias) of one or two linear layers."""
    y = spatial_mean(x)
    for number, (kernel, bias) in enumerate(weights):
        y, kernel, bias = promote(dtype, y if number == 0 else nnx.relu(y), kernel, bias)
        y = y @ kernel + bias
    return coefficients_of(y / spec.temperature, spec, list(map(spec.channels, features)))


class DynamicConv(nnx.Module):
    """A convolution whose kernel is generated for each image: a drop-in replacement for `flax.nnx.Conv`.

    `w̃_t = Σ_i η_t^i(x) w_t^i` (Eq. 1), as `dynet_jax.DynamicConv`, the Linen layer, has it, with the same
    numbers for the same parameters. Called with x alone, the layer predicts the coefficients from x; called with
    coefficients, it uses them.

    Attributes:
      in_features: C_in.
      features, kernel_size, strides, padding, kernel_dilation, feature_group_count, use_bias, group_size, spec, fusion,
        dtype, param_dtype, precision, kernel_init, bias_init: as in the Linen layer; a `kernel_size` that is an int is
        that of a convolution in one dimension, as in `flax.nnx.Conv`.
      predictor: whether the layer has a predictor of its own; without one it must be called with coefficients.

    Parameters: `kernels` [group_size, *kernel_size, C_in / groups, features], `bias` [features] and `predictor`.

    Raises UserError for channels that groups do not divide, and for an option of the Linen layer alone.

    >>> layer = DynamicConv(16, 64, (3, 3), group_size=4, rngs=nnx.Rngs(0))
    >>> layer.kernels.shape
    (4, 3, 3, 16, 64)
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        padding: Padding = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        group_size: int | None = None,
        spec: CoefficientSpec = CoefficientSpec(),  # noqa: B008  (it is frozen)
        predictor: bool = True,
        fusion: Fusion = "auto",
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable = nnx.initializers.lecun_normal(),  # noqa: B008
        bias_init: Callable = nnx.initializers.zeros_init(),  # noqa: B008
        rngs: nnx.Rngs,
    ):
        if in_features % feature_group_count or features % feature_group_count:
            raise UserError(f"feature_group_count={feature_group_count} does not divide {in_features} and {features}")
        spec = with_group_size(spec, group_size)
        size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.in_features, self.features, self.dtype, self.precision = in_features, features, dtype, precision
        options = {"strides": strides, "padding": padding, "kernel_dilation": kernel_dilation, "fusion": fusion}
        options |= {"feature_group_count": feature_group_count}
        self.options = tuple((key, _fixed(value)) for key, value in options.items())  # no arrays: NNX compares them
        shape = (*size, in_features // feature_group_count, features)
        self.kernels = nnx.Param(init_bank(kernel_init, rngs.params(), spec.group_size, shape, param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (features,), param_dtype)) if use_bias else nnx.data(None)
        self.predictor = nnx.data(None)
        if predictor:
            own: Any = {"spec": spec, "dtype": dtype, "param_dtype": param_dtype}
            self.predictor = CoefficientPredictor(in_features, (features,), **own, rngs=rngs)

    def __call__(
        self,
        x: Shaped[Map, "*batch_and_spatial c_in"],
        coefficients: Shaped[Operand, "batch group_size coefficients"] | None = None,
    ) -> Shaped[Map, "*batch_and_output_spatial {self.features}"]:
        """Returns the convolution of every image of x with its own kernel; x may have several batch axes, or none.

        Raises ValueError if shapes do not fit one another, and without coefficients if there is no predictor.
        """
        if coefficients is None and self.predictor is None:
            raise ValueError("a DynamicConv with predictor=False has to be called with coefficients")
        own: Any = self.predictor
        given = coefficients if coefficients is not None else lambda x: own(x)[0]
        bias = None if self.bias is None else self.bias[...]
        options = dict(self.options, precision=self.precision)
        return convolve_batches(x, self.kernels[...], bias, given, dtype=self.dtype, **options)


def _fixed(option: Any) -> Any:
    """Returns an option that can be hashed."""
    return option if isinstance(option, str) or not isinstance(option, Sequence) else tuple(map(_fixed, option))
