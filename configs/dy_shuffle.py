"""Dy-shuffle (1.0), the paper's ImageNet recipe: 29.6 % top-1 error in the paper's Table 1.

    python train.py --config=configs/dy_shuffle.py --workdir=runs/dy_shuffle

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_shuffle", variant, group_size=6)
