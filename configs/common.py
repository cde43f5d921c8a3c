"""The paper's recipe (`dynet_jax.train.recipe`), and the same at the size of other datasets: every file's variants.

Learning rates of the variants are the paper's by batch size, or found by trying.
"""

import ml_collections

from dynet_jax.errors import UserError, suggest
from dynet_jax.train.recipe import paper_recipe, segmentation_recipe


def recipe(model: str, variant: str = "imagenet2012", **model_arguments) -> ml_collections.ConfigDict:
    """The configuration of one network on one of VARIANTS."""
    config = paper_recipe(model, **model_arguments)
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r} of this configuration; {suggest(variant, VARIANTS)}")
    VARIANTS[variant](config)
    return config.lock()


def _imagenet2012(config):
    pass  # the recipe above


def _digits(config):
    """A narrow network (width 0.5, whatever the file's) on enlarged digits; a laptop's CPU trains it in minutes."""
    _small_images(config, "digits", flip=False)
    config.model.width = 0.5
    config.model.small_input = True
    config.data.image_size = 16
    config.data.resize_to = 16
    config.batch_size = 64
    config.learning_rate = 0.05
    config.epochs = 20.0
    config.warmup_epochs = 2.0
    config.log_every_steps = 22
    config.eval_every_epochs = 2.0
    config.checkpoint_every_steps = 110


def _fashion_mnist(config):
    _small_images(config, "fashion_mnist", flip=True)
    config.epochs = 30.0


def _cifar10(config):
    _small_images(config, "cifar10", flip=True)
    config.model.small_input = True
    config.epochs = 200.0


def _imagenette(config):
    """Ten classes of ImageNet at 128 px: give the folder as --config.data.name=folder:PATH."""
    config.model.num_classes = 10
    config.data.name = "folder:imagenette128"
    config.data.image_size = 128
    config.data.resize_to = 128
    config.data.threads = 4
    config.batch_size = 64
    config.learning_rate = 0.05
    config.epochs = 100.0
    config.dtype = "float32"
    config.log_every_steps = 10
    config.checkpoint_every_steps = 50


def _small_images(config, dataset, flip):
    config.model.num_classes = 10
    config.data.name = dataset
    config.data.image_size = 32
    config.data.resize_to = 32
    config.data.crop = "random_shift"
    config.data.flip = flip
    config.data.mean = (127.5, 127.5, 127.5)
    config.data.std = (63.75, 63.75, 63.75)
    config.data.threads = 4
    config.batch_size = 128
    config.learning_rate = 0.05  # 0.8 x 128 / 2048; at 0.1 dynamic networks diverged
    config.dtype = "float32"
    config.log_every_steps = 50


VARIANTS = {
    "imagenet2012": _imagenet2012,
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "imagenette": _imagenette,
}


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
