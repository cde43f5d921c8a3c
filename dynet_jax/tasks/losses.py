"""Loss and counts per example, so that sums over devices and masks are exact."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Integer

from dynet_jax.ops.maps import Operand


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
