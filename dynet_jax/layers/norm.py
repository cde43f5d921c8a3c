"""Batch normalisation over a fixed number of examples, independent of the number of devices."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Shaped

from dynet_jax.ops.maps import Map, moments, normalize


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics are computed over `bn_batch_size` consecutive examples.

    The paper trains on 32 GPUs with 64 images each, so its statistics cover 64 images although the batch is 2048.
    Here this is a property of the network, not of the machine: 1, 8 or 256 devices compute the same function. The
    batch is split into groups of `bn_batch_size`. If a device holds less than one group, `axis_name` names the mesh
    axis over which a group is sharded, and statistics are averaged over that axis.

    Attributes:
      use_running_average: True in evaluation.
      bn_batch_size: examples per group, or None for the whole batch. A smaller batch is one group.
      axis_name: mesh axis (or axes) of `shard_map` over which a group is sharded, or None.
      momentum, epsilon, scale_init, dtype, param_dtype: as in `flax.linen.BatchNorm` (momentum 0.9 is PyTorch's 0.1).
      unbiased: whether the running variance is the unbiased one (Bessel's correction), as in PyTorch but not in Flax.

    Parameters: `scale`, `bias` [features]. Statistics: `mean`, `var` [features], always float32, in the collection
    batch_stats. The running variance is that of the batch, averaged over the groups.

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

    @nn.compact
    def __call__(self, x: Shaped[Map, "batch *spatial features"]) -> Shaped[Map, "batch *spatial features"]:
        """Returns the normalised map. Raises ValueError if the groups do not divide a batch larger than one group."""
        features = x.shape[-1]
        scale = self.param("scale", self.scale_init, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (features,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)

        if self.use_running_average:
            return normalize(x, running_mean.value, running_var.value, scale, bias, self.epsilon, self.dtype)

        groups = self._group_count(x.shape[0])
        mean, mean_of_squares = moments(x, groups)
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = lax.pmean((mean, mean_of_squares), self.axis_name)
        var = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(axis=0)
            bessel = self._bessel(math.prod(x.shape[:-1]) // groups)
            running_var.value = keep * running_var.value + (1 - keep) * bessel * var.mean(axis=0)
        return normalize(x, mean, var, scale, bias, self.epsilon, self.dtype)

    def _group_count(self, batch: int) -> int:
        if self.bn_batch_size is None or batch <= self.bn_batch_size:
            return 1
        if batch % self.bn_batch_size:
            raise ValueError(
                f"a batch of {batch} examples cannot be split into groups of bn_batch_size={self.bn_batch_size}"
            )
        return batch // self.bn_batch_size

    def _bessel(self, count: int) -> float:
        """Returns n / (n - 1), where n is the number of values behind one variance; each device has `count` of them."""
        if not self.unbiased:
            return 1.0
        count *= lax.psum(1, self.axis_name) if self.axis_name is not None else 1
        return count / max(1, count - 1)
