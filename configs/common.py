"""What every file here is made by: the recipe of its task (`dynet_jax.config.recipe`), and a variant of it.

The variants for classification are in `dynet_jax.config.variants`.
"""

import ml_collections

from dynet_jax.config.recipe import paper_recipe, segmentation_recipe
from dynet_jax.config.variants import VARIANTS
from dynet_jax.errors import UserError, suggest


def recipe(model: str, variant: str = "imagenet2012", **model_arguments) -> ml_collections.ConfigDict:
    """The configuration of one network on one of VARIANTS."""
    config = paper_recipe(model, **model_arguments)
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r} of this configuration; {suggest(variant, VARIANTS)}")
    VARIANTS[variant](config)
    return config.lock()


def segmentation(model: str, variant: str = "cityscapes", **model_arguments) -> ml_collections.ConfigDict:
    """The configuration of one network for segmentation on one of SEGMENTATION_VARIANTS."""
    config = segmentation_recipe(model, **model_arguments)
    if variant not in SEGMENTATION_VARIANTS:
        raise UserError(f"unknown variant {variant!r} of this configuration; {suggest(variant, SEGMENTATION_VARIANTS)}")
    SEGMENTATION_VARIANTS[variant](config)
    return config.lock()


def _camvid(config):
    """Street scenes at 480x360: give the folder as --config.data.name=camvid:PATH."""
    config.model.num_classes = 11
    config.data.name = "camvid:camvid"
    config.data.crop_size = (360, 360)
    config.data.eval_size = (360, 480)
    config.data.label_size = (360, 480)
    config.data.threads = 4
    config.epochs = 200.0
    config.warmup_epochs = 2.0
    config.dtype = "float32"
    config.log_every_steps = 10
    config.checkpoint_every_steps = 100


SEGMENTATION_VARIANTS = {"cityscapes": lambda config: None, "camvid": _camvid}
