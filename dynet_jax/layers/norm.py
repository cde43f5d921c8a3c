"""Batch normalisation over a fixed number of examples, whatever the number of devices."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dynet_jax.ops.normalized import Normalized


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics are those of `bn_batch_size` neighbouring examples.

    The paper trains on 32 GPUs with 64 images each, so its statistics are over 64 images although the batch is 2048.
    Here that is a property of the network, not of the machine: 1, 8 or 256 devices compute the same function. The
    batch is split into groups of `bn_batch_size`; where a device holds less than a group, `axis_name` names the mesh
    axis along which a group is spread, and statistics are averaged over it.

    Attributes:
      use_running_average: True in evaluation.
      bn_batch_size: examples per group, or None for the whole batch. A batch of fewer examples is one group.
      axis_name: mesh axis (or axes) of `shard_map` over which a group is spread, or None.
      momentum, epsilon, scale_init, dtype, param_dtype: as in `flax.linen.BatchNorm` (momentum 0.9 is PyTorch's 0.1).
      unbiased: keep Bessel's correction of the variance in the running average, as PyTorch does and Flax does not.
      deferred: in training, return a `dynet_jax.ops.Normalized` map, which whoever reads it normalises.

    Parameters `scale`, `bias` [features]; statistics `mean`, `var` [features] in the collection batch_stats, always
    float32. The running variance is that of the batch, averaged over the groups.

    >>> import jax, jax.numpy as jnp
    >>> norm = BatchNorm(use_running_average=False, bn_batch_size=4)
    >>> y, _ = norm.init_with_output(jax.random.key(0), jnp.arange(16.0).reshape(8, 2))
    >>> y[:4].mean().item(), y[4:].mean().item()
    (0.0, 0.0)
    """

    use_running_average: bool
    bn_batch_size: int | None = None
    axis_name: str | tuple[str, ...] | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = False
    scale_init: Callable = nn.initializers.ones_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    deferred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, sums: jax.Array | None = None) -> jax.Array | Normalized:
        """[batch, *spatial, features] -> the same. Raises ValueError if groups do not divide a larger batch.

        sums: of x, `dynet_jax.ops.channel_sums`, if they are known; then x is not read for its statistics.
        """
        features = x.shape[-1]
        scale = self.param("scale", self.scale_init, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (features,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)

        if self.use_running_average:
            return self._normalize(x, running_mean.value, running_var.value, scale, bias)

        grouped = x.reshape(self._group_count(x.shape[0]), -1, *x.shape[1:])
        mean, var = self._statistics(grouped, sums)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(axis=0)
            running_var.value = keep * running_var.value + (1 - keep) * self._bessel(grouped) * var.mean(axis=0)
        if self.deferred:
            return self._defer(x, mean, var, scale, bias, sums)
        per_group = (mean.shape[0], *(1,) * (grouped.ndim - 2), features)
        return self._normalize(grouped, mean.reshape(per_group), var.reshape(per_group), scale, bias).reshape(x.shape)

    def _group_count(self, batch: int) -> int:
        if self.bn_batch_size is None or batch <= self.bn_batch_size:
            return 1
        if batch % self.bn_batch_size:
            raise ValueError(
                f"a batch of {batch} examples cannot be split into groups of bn_batch_size={self.bn_batch_size}"
            )
        return batch // self.bn_batch_size

    def _statistics(self, grouped, sums):
        """Mean and variance of each group, [groups, features] in float32."""
        if sums is None:
            values = grouped.astype(jnp.float32)
            axes = tuple(range(1, values.ndim - 1))
            mean, mean_of_squares = values.mean(axes), jnp.square(values).mean(axes)
        else:
            sums = sums.reshape(2, *grouped.shape[:2], -1).sum(axis=2)
            mean, mean_of_squares = sums / math.prod(grouped.shape[1:-1])
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = lax.pmean((mean, mean_of_squares), self.axis_name)
        return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)

    def _bessel(self, grouped):
        """n / (n - 1) for the n values behind one variance."""
        if not self.unbiased:
            return 1.0
        count = math.prod(grouped.shape[1:-1]) * (lax.psum(1, self.axis_name) if self.axis_name is not None else 1)
        return count / max(1, count - 1)

    def _defer(self, x, mean, var, scale, bias, sums):
        multiplier = scale.astype(jnp.float32) * lax.rsqrt(var + self.epsilon)
        offset = bias - mean * multiplier
        multiplier, offset = (jnp.repeat(v, x.shape[0] // v.shape[0], axis=0) for v in (multiplier, offset))
        return Normalized(x.astype(self.dtype or x.dtype), multiplier, offset, sums=sums)

    def _normalize(self, x, mean, var, scale, bias):
        multiplier = scale.astype(jnp.float32) * lax.rsqrt(var + self.epsilon)
        y = (x.astype(jnp.float32) - mean) * multiplier + bias
        return y.astype(self.dtype or x.dtype)
