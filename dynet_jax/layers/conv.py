"""The static convolution of the base networks, computed by `dynet_jax.ops.conv`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Shaped

from dynet_jax import ops
from dynet_jax.ops.maps import Map, add, promote
from dynet_jax.ops.window import Padding


class Conv(nn.Module):
    """`flax.linen.Conv` with this package's CPU implementations of grouped and depthwise convolutions.

    Parameters have the names and shapes of `flax.linen.Conv`. The layer can be called like a `DynamicConv` with a
    shared predictor, with coefficients None, so that a network needs one code path for both.

    >>> import jax, jax.numpy as jnp
    >>> layer = Conv(features=8, kernel_size=(3, 3), strides=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 4)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((2, 4, 4, 8), (3, 3, 4, 8))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Shaped[Map, "batch *spatial c_in"], coefficients: None = None
    ) -> Shaped[Map, "batch *output_spatial {self.features}"]:
        """Returns the convolution of x."""
        if coefficients is not None:
            raise ValueError("a static convolution takes no coefficients; use DynamicConv")
        shape = kernel_shape(x, self.features, self.kernel_size, self.feature_group_count)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote(self.dtype, x, kernel, bias)
        y = ops.conv(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            precision=self.precision,
        )
        return y if bias is None else add(y, bias)


def kernel_shape(x: Map, features: int, kernel_size: int | Sequence[int], feature_group_count: int) -> tuple[int, ...]:
    """Returns the kernel's shape, [*kernel_size, C_in / groups, features].

    Raises ValueError if the groups do not divide the channels.
    """
    kernel_size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    if x.shape[-1] % feature_group_count or features % feature_group_count:
        raise ValueError(
            f"feature_group_count={feature_group_count} must divide both the {x.shape[-1]} input channels and "
            f"features={features}"
        )
    return (*kernel_size, x.shape[-1] // feature_group_count, features)
