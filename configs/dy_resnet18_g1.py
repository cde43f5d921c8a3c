"""Dy-ResNet18 with g_t = 1 (Table 6): 33.8 % top-1 error in the paper. configs/dy_resnet18.py is g_t = 6.

    python train.py --config=configs/dy_resnet18_g1.py --workdir=runs/dy_resnet18_g1

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py). On CIFAR predictors learn ten times as fast as the
rest; on ImageNet they do with --config.learning_rate_factors='[["predictor", 10]]' (docs/training.md).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_resnet18", variant, group_size=1)
