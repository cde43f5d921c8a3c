"""Sums over the kernels of a bank, weighted by coefficients: of the kernels (Eq. 1) or of what they gave (Eq. 2).

Both are contractions over g_t = 6 terms, too few for a good matrix product: multiply-adds give the value in one pass
over the result. Their derivatives by JAX's own rules would be sums over channels or positions of broadcast products,
which XLA computes on a CPU up to 20 times slower than contractions. So derivatives have code of their own here; the
functions are differentiable any number of times, forwards and backwards.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from dynet_jax.ops.backend import target_backend
from dynet_jax.ops.conv import accumulator_dtype
from dynet_jax.ops.maps import Operand


def fuse_kernels(
    kernels: Shaped[Operand, "group_size *kernel_size c_in_of_group c_out"],
    coefficients: Shaped[Operand, "batch group_size #c_out"],
    *,
    precision=None,
) -> Shaped[Array, "batch *kernel_size c_in_of_group c_out"]:
    """Eq. 1: the dynamic kernel of every example, `w̃_t = Σ_i η_t^i w_t^i` over the g_t fixed kernels.

    Args:
      kernels: the bank, [group_size, *kernel_size, C_in / groups, C_out]: a stack of ordinary kernels.
      coefficients: [batch, group_size, C_out], or [batch, group_size, 1] when all output channels share them (one
        matrix product then fuses the whole bank, as in CondConv and DY-CNN).
      precision: as in `jax.lax.dot_general`.
    Returns:
      [batch, *kernel_size, C_in / groups, C_out], in the bank's dtype.
    Raises:
      ValueError: if the shapes do not fit one another.

    >>> import jax.numpy as jnp
    >>> fuse_kernels(jnp.ones((6, 3, 3, 8, 16)), jnp.full((2, 6, 16), 0.5))[0, 0, 0, 0, 0].item()
    3.0
    """
    check_coefficients(kernels, coefficients)
    coefficients = coefficients.astype(kernels.dtype)
    return weighted_kernels(kernels, coefficients, precision).astype(kernels.dtype)


def weighted_kernels(
    kernels: Shaped[Operand, "group_size *kernel c_out"],
    coefficients: Shaped[Operand, "batch group_size #c_out"],
    precision=None,
) -> Shaped[Array, "batch *kernel c_out"]:
    """Returns the sums of `fuse_kernels`, in float32 or more.

    >>> import jax.numpy as jnp
    >>> weighted_kernels(jnp.ones((6, 3, 3, 8, 16)), jnp.full((2, 6, 16), 0.5)).shape
    (2, 3, 3, 8, 16)
    """
    if coefficients.shape[-1] == 1:  # one matrix product for the whole bank
        return _contract("g...o,bg->b...o", kernels, coefficients[..., 0], precision)
    equation = "g...o,bgo->b...o"
    # Multiply-adds are 2 to 8 times faster on a CPU. On a TPU they move fewer bytes, but some layers take longer by its
    # compiler's count; on GPUs they have not been measured.
    if target_backend() != "cpu":
        return _contract(equation, kernels, coefficients, precision)

    def multiply_add(kernels, coefficients):
        weights = coefficients.reshape(*coefficients.shape[:2], *(1,) * (kernels.ndim - 2), -1)
        return sum(_wide(kernel) * _wide(weights[:, i]) for i, kernel in enumerate(kernels))

    return _bilinear(multiply_add, equation, precision)(kernels, coefficients)


def weighted_features(
    features: Shaped[Operand, "batch *spatial groups group_size c_out_of_group"],
    coefficients: Shaped[Operand, " batch #groups group_size #c_out_of_group"],
    precision=None,
) -> Shaped[Array, "batch *spatial {features.shape[-3]*features.shape[-1]}"]:
    """Returns the sum of the maps that the g_t kernels gave, by group of channels, in float32 or more.

    >>> import jax.numpy as jnp
    >>> weighted_features(jnp.ones((2, 7, 7, 1, 6, 16)), jnp.full((2, 1, 6, 16), 0.5))[0, 0, 0, 0].item()
    3.0
    """
    *batch_and_spatial, groups, group_size, channels = features.shape
    coefficients = jnp.broadcast_to(coefficients, (coefficients.shape[0], groups, group_size, channels))
    coefficients = coefficients.astype(accumulator_dtype(features))

    def multiply_add(features, coefficients):
        weights = coefficients.reshape(-1, *(1,) * (features.ndim - 4), *coefficients.shape[1:])
        return sum(_wide(features[..., i, :]) * weights[..., i, :] for i in range(group_size))

    summed = _bilinear(multiply_add, "b...ngo,bngo->b...no", precision)(features, coefficients)
    return summed.reshape(*batch_and_spatial, groups * channels)


def check_coefficients(kernels, coefficients):
    group_size, c_out = kernels.shape[0], kernels.shape[-1]
    if coefficients.ndim != 3 or coefficients.shape[1] != group_size or coefficients.shape[2] not in (1, c_out):
        raise ValueError(
            f"coefficients must be [batch, group_size={group_size}, features={c_out}] (or 1 feature) for a bank of "
            f"shape {kernels.shape}, not {coefficients.shape}"
        )


def _bilinear(multiply_add, equation: str, precision):
    """The function of two arrays with the values of `multiply_add`, differentiated as the contraction that it is."""

    @jax.custom_jvp
    def value(a, b):
        return multiply_add(a, b)

    @value.defjvp
    def derivative(primals, tangents):
        (a, b), (a_dot, b_dot) = primals, tangents
        return value(a, b), _contract(equation, a_dot, b, precision) + _contract(equation, a, b_dot, precision)

    return value


def _contract(equation, a, b, precision):
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=accumulator_dtype(a))


def _wide(x):
    return jnp.asarray(x, accumulator_dtype(x))
