"""Dy-mobile (1.0) with g_t = 4 (Table 5): 28.69 % top-1 error in the paper. configs/dy_mobile.py is g_t = 6.

    python train.py --config=configs/dy_mobile_g4.py --workdir=runs/dy_mobile_g4

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_mobile", variant, group_size=4)
