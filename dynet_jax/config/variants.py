"""The variants of a configuration: changes of the recipes for other datasets.

Learning rates are the paper's, scaled by batch size, or found by experiment.
"""

from collections.abc import Collection

import ml_collections

from dynet_jax.models.registry import has_residuals, model_info


def _imagenet2012(config: ml_collections.ConfigDict) -> None:
    pass  # the recipe itself


def _digits(config: ml_collections.ConfigDict) -> None:
    """Sets a narrow network (width 0.5) on enlarged digits; a laptop's CPU trains it in minutes."""
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


def _fashion_mnist(config: ml_collections.ConfigDict) -> None:
    _small_images(config, "fashion_mnist", flip=True)
    config.epochs = 30.0


def _cifar10(config: ml_collections.ConfigDict) -> None:
    _cifar(config, "cifar10", num_classes=10)


def _cifar100(config: ml_collections.ConfigDict) -> None:
    """Sets CIFAR-100 as class folders of 32 px images, given as --config.data.name=folder:PATH."""
    _cifar(config, "folder:cifar100", num_classes=100)


def _cifar(config, dataset, num_classes):
    _small_images(config, dataset, flip=True)
    config.model.num_classes = num_classes
    config.model.small_input = True
    config.epochs = 200.0
    if config.model.name:  # a plan of many networks names them later
        change_for_small_images(config)


def change_for_small_images(config: ml_collections.ConfigDict, keep: Collection[str] = ()) -> None:
    """Sets what the network is registered with for small images, in place, except the keys in `keep`."""
    for key, value in model_info(config.model.name).small_images.items():
        if key not in keep:
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value


def _imagenette(config: ml_collections.ConfigDict) -> None:
    """Sets ten classes of ImageNet at 128 px, given as --config.data.name=folder:PATH."""
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


def _small_images(config: ml_collections.ConfigDict, dataset: str, flip: bool) -> None:
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


def _modern(config: ml_collections.ConfigDict) -> None:
    """Sets ImageNet with today's regularisation, of torchvision's recipe for its second weights of ResNet50 (2021).

    Its values are: TrivialAugment, random erasing 0.1, mixup 0.2, CutMix 1.0, label smoothing 0.1, weight decay 2e-5,
    moving averages, 600 epochs, and 20 % dropout of MobileNets. Stochastic depth is 10 %, of networks with residuals.
    """
    config.epochs = 600.0
    config.weight_decay = 2e-5
    config.ema_decay = 0.9999
    config.mixup = 0.2
    config.cutmix = 1.0
    config.data.trivial_augment = True
    config.data.random_erasing = 0.1
    config.model.dropout = 0.2
    if has_residuals(config.model.name):
        config.model.stochastic_depth = 0.1


# Each function changes a configuration of `paper_recipe` in place.
VARIANTS = {
    "imagenet2012": _imagenet2012,
    "modern": _modern,
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenette": _imagenette,
}


def _camvid(config: ml_collections.ConfigDict) -> None:
    """Sets street scenes at 480x360, given as --config.data.name=camvid:PATH."""
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


# Each function changes a configuration of `segmentation_recipe` in place.
SEGMENTATION_VARIANTS = {"cityscapes": lambda config: None, "camvid": _camvid}
