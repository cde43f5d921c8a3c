"""Networks as if they had been trained: random weights, and the BatchNorm statistics that they give.

Without fitting statistics, or with coefficients that depend strongly on the image, a deep random network is chaotic:
rounding alone changes its logits.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.smallest import random_variables

PREDICTORS = 0.2  # of the random kernels' size


def trained_variables(model, size=64, seed=1):
    """Variables (of numpy arrays) of a network made by `create_model`, for normalised noise."""

    def calmer(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf * np.float32(PREDICTORS) if "'predictor'" in name and "'kernel'" in name else leaf

    variables = jax.tree_util.tree_map_with_path(calmer, random_variables(model, size, seed))
    images = jnp.asarray(np.random.default_rng(seed).uniform(-2, 2, size=(8, size, size, 3)), jnp.float32)
    fresh = model.clone(bn_momentum=0.0)
    _, updates = jax.jit(lambda v, x: fresh.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    return jax.device_get({"params": variables["params"], **updates})
