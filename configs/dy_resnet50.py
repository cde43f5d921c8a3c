"""Dy-ResNet50, the paper's ImageNet recipe: 23.75 % top-1 error in the paper's Table 1.

    python train.py --config=configs/dy_resnet50.py --workdir=runs/dy_resnet50

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_resnet50", variant, group_size=6)
