"""Loss and counts per example, so that sums over devices and masks are exact."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Integer

from dynet_jax.ops.maps import Operand


class MixedLabels(NamedTuple):
    """The classes [batch] of an image and of the one it is mixed with, and its own share [batch], from 0 to 1."""

    own: Integer[Array, " batch"]
    other: Integer[Array, " batch"]
    share: Float[Array, " batch"]

    @property
    def largest(self) -> Integer[Array, " batch"]:
        """Returns the class with the larger share."""
        return jnp.where(self.share >= 0.5, self.own, self.other)


def mixed_cross_entropy(
    logits: Float[Operand, "batch classes"], labels: MixedLabels, label_smoothing: float = 0.0
) -> Float32[Array, " batch"]:
    """Returns the cross entropy against mixed labels: the mean of two, as it is linear in the labels."""
    own, other = (cross_entropy(logits, of, label_smoothing) for of in (labels.own, labels.other))
    return labels.share * own + (1 - labels.share) * other


def cross_entropy(
    logits: Float[Operand, "batch classes"], labels: Integer[Operand, " batch"], label_smoothing: float = 0.0
) -> Float32[Array, " batch"]:
    """Returns the cross entropy of each example against the smoothed label.

    With smoothing e the target is 1 - e + e / classes for the label and e / classes elsewhere (Szegedy et al., 2016).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def count_correct(
    logits: Float[Operand, "batch classes"], labels: Integer[Operand, " batch"]
) -> dict[str, Float32[Array, " batch"]]:
    """Returns, as 0 or 1, whether the label has the highest logit ('top1') or one of the highest five ('top5').

    Ties go to the lower class, as in argmax, and NaN logits never count as correct.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    rank = jnp.sum((logits > score) | ((logits == score) & earlier), axis=-1)
    valid = ~jnp.isnan(logits).any(axis=-1)
    return {f"top{k}": ((rank < k) & valid).astype(jnp.float32) for k in (1, 5)}
