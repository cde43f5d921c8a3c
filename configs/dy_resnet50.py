"""Dy-ResNet50, the paper's ImageNet recipe: 23.75 % top-1 error in the paper's Table 1.

    python train.py --config=configs/dy_resnet50.py --workdir=runs/dy_resnet50

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py). On CIFAR predictors learn ten times as fast as the
rest; on ImageNet they do with --config.learning_rate_factors='[["predictor", 10]]' (docs/training.md).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_resnet50", variant, group_size=6)
