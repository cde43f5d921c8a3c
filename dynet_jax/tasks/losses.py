"""Loss and counts of a batch, per example, so that sums over devices and masks stay exact."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross entropy of each example against the smoothed label: [batch, classes], [batch] -> [batch], float32.

    With smoothing e the target is 1 - e + e / classes for the label and e / classes elsewhere (Szegedy et al., 2016).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def count_correct(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Whether the label is the best, and among the best five: two [batch] arrays of 0 and 1, 'top1' and 'top5'.

    Ties go to the lower class, as argmax has it, and NaN logits never count as correct.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    rank = jnp.sum((logits > score) | ((logits == score) & earlier), axis=-1)
    valid = ~jnp.isnan(logits).any(axis=-1)
    return {f"top{k}": ((rank < k) & valid).astype(jnp.float32) for k in (1, 5)}
