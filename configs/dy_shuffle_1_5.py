"""Dy-shuffle (1.5), the paper's ImageNet recipe: 27.48 % top-1 error in the paper's Table 4.

    python train.py --config=configs/dy_shuffle_1_5.py --workdir=runs/dy_shuffle_1_5

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_shuffle", variant, width=1.5, group_size=6)
