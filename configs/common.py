"""The starting point of a user's configuration file: the recipe of a network's task, and a variant of it.

from configs import common

def get_config(variant="imagenet2012"):
    config = common.recipe("dy_mobile", variant).unlock()
    config.epochs = 150.0
    return config.lock()
"""

from dynet_jax.config.named import recipe, segmentation
from dynet_jax.config.variants import SEGMENTATION_VARIANTS, VARIANTS

__all__ = ["SEGMENTATION_VARIANTS", "VARIANTS", "recipe", "segmentation"]
