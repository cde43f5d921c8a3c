"""DynamicConv: a convolution with a separate kernel for every image (DyNet, section 3.2, Fig. 1 and 3)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from dynet_jax import ops
from dynet_jax.layers.conv import kernel_shape
from dynet_jax.layers.predictor import CoefficientPredictor, CoefficientSpec, with_group_size
from dynet_jax.ops.dynamic_conv import Fusion
from dynet_jax.ops.maps import Map, Operand, add, promote, to_array
from dynet_jax.ops.window import Padding


class DynamicConv(nn.Module):
    """A convolution whose kernel is generated for each image: a drop-in replacement for `flax.linen.Conv`.

    `w̃_t = Σ_i η_t^i(x) w_t^i` (Eq. 1): the kernel of output channel t is the sum of `group_size` fixed
    kernels, weighted by coefficients that are predicted from the image. The layer supports 1-D, 2-D and 3-D inputs,
    strides, dilation and groups.

    Called with x alone, the layer owns a `CoefficientPredictor` that reads x. Called with coefficients, it uses them,
    so that one predictor can serve all layers of a block, as in the paper's networks.

    Attributes:
      features, kernel_size, strides, padding, kernel_dilation, feature_group_count, use_bias, dtype, param_dtype,
        precision, kernel_init, bias_init: as in `flax.linen.Conv`; `input_dilation` and `mask` are not supported.
        `kernel_init` is called once per kernel of the bank, so it sees the fan-in of an ordinary kernel.
      group_size: g_t, the number of fixed kernels per dynamic kernel; None takes that of `spec`, 6.
      spec: settings of the layer's own predictor, see `CoefficientSpec`.
      norm: creates the BatchNorm of `spec.normalize_pooled`.
      fusion: 'kernel' (Eq. 1), 'feature' (Eq. 2), or 'auto' for the faster one; the result is the same.

    Parameters: `kernels` [group_size, *kernel_size, C_in / groups, features], `bias` [features] and, if the layer
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
    group_size: int | None = None
    spec: CoefficientSpec = CoefficientSpec()
    norm: Callable[..., nn.Module] | None = None
    fusion: Fusion = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @property
    def resolved(self) -> CoefficientSpec:
        """Returns the spec with `group_size` set."""
        return with_group_size(self.spec, self.group_size)

    @nn.compact
    def __call__(
        self,
        x: Shaped[Map, "*batch_and_spatial c_in"],
        coefficients: Shaped[Operand, "batch group_size coefficients"] | None = None,
    ) -> Shaped[Map, "*batch_and_output_spatial {self.features}"]:
        """Returns the convolution of every image of x with its own kernel; x may have several batch axes.

        Raises ValueError if shapes do not fit one another.
        """
        shape = kernel_shape(x, self.features, self.kernel_size, self.feature_group_count)
        kernels = self.param("kernels", self._init_bank, shape)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None

        def predicted(x):
            predictor = CoefficientPredictor(
                (self.features,), None, self.resolved, self.norm, self.dtype, self.param_dtype, name="predictor"
            )
            return predictor(x)[0]

        options = {"strides": self.strides, "padding": self.padding, "kernel_dilation": self.kernel_dilation}
        options |= {"feature_group_count": self.feature_group_count, "fusion": self.fusion}
        given = predicted if coefficients is None else coefficients
        return convolve_batches(x, kernels, bias, given, dtype=self.dtype, precision=self.precision, **options)

    def _init_bank(self, key, shape):
        return init_bank(self.kernel_init, key, self.resolved.group_size, shape, self.param_dtype)


def init_bank(kernel_init: Callable, key: Array, group_size: int, shape: Sequence[int], dtype) -> Array:
    """Returns [group_size, *shape]: kernels of that shape, each of which is initialised with a key of its own."""
    # A loop instead of a vmap: the numbers are the same, and a vmap takes XLA nearly twice as long to compile.
    return jax.lax.map(lambda k: kernel_init(k, tuple(shape), dtype), jax.random.split(key, group_size))


def convolve_batches(
    x: Shaped[Map, "*batch_and_spatial c_in"],
    kernels: Shaped[Operand, "group_size *kernel_size c_in_of_group c_out"],
    bias: Shaped[Operand, " c_out"] | None,
    coefficients: Shaped[Operand, "batch group_size coefficients"] | Callable[[Map], Array],
    *,
    dtype: Any = None,
    **options: Any,
) -> Shaped[Map, "*batch_and_output_spatial c_out"]:
    """Returns the dynamic convolution of x, which may have several batch axes, plus the bias.

    coefficients: or a function that predicts them from x with one batch axis.
    options: of `dynet_jax.ops.dynamic_conv`.
    """
    split = x.ndim - kernels.ndim + 2
    batch_shape = x.shape[:split]
    if split != 1:
        x = to_array(x).reshape(math.prod(batch_shape), *x.shape[split:])
    given = coefficients(x) if callable(coefficients) else coefficients
    x, kernels, given, bias = promote(dtype, x, kernels, given, bias)
    y = ops.dynamic_conv(x, kernels, given, **options)
    y = y if bias is None else add(y, bias)
    return y if split == 1 else to_array(y).reshape(*batch_shape, *y.shape[1:])
