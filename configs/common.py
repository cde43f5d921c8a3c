"""The paper's recipe, and the same recipe at the size of other datasets. Each network's file begins from here.

Stated in the paper (section 4.1): SGD with momentum 0.9, batch 2048, learning rate 0.8, cosine decay, weight decay
5e-5, label smoothing 0.1, random crop and flip, central crop for testing.
Chosen here, because the paper is silent: 300 epochs, 5 of them warm-up, BatchNorm over 64 examples (the paper's 2048 on
32 GPUs), no decay of BatchNorm's parameters and biases, random resized crops of 8 % to 100 % of the area.
"""

import ml_collections

from dynet_jax.errors import UserError, suggest


def recipe(model: str, variant: str = "imagenet2012", **model_arguments) -> ml_collections.ConfigDict:
    """The configuration of one network on one of VARIANTS."""
    config = ml_collections.ConfigDict()
    config.model = {"name": model, "num_classes": 1000, "width": 1.0, "small_input": False, **model_arguments}
    config.data = {
        "name": "imagenet2012",
        "data_dir": None,
        "image_size": 224,
        "resize_to": 256,
        "crop": "random_resized_crop",
        "flip": True,
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "threads": 16,
    }
    config.batch_size = 2048
    config.accumulation_steps = 1
    config.epochs = 300.0
    config.warmup_epochs = 5.0
    config.learning_rate = 0.8
    config.momentum = 0.9
    config.weight_decay = 5e-5
    config.decay_parameters = "kernels"
    config.label_smoothing = 0.1
    config.bn_batch_size = 64
    config.dtype = "bfloat16"
    config.seed = 0
    config.log_every_steps = 50
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 1000
    config.keep_checkpoints = 3
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r} of this configuration; {suggest(variant, VARIANTS)}")
    VARIANTS[variant](config)
    return config.lock()


def _imagenet2012(config):
    pass  # the recipe above


def _digits(config):
    """A narrow network on enlarged digits, that a laptop's CPU trains in about two minutes."""
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
