"""Fix-mobile (1.0), Dy-mobile's static twin (Table 4), by the same recipe: 33.57 % top-1 error in the paper.

    python train.py --config=configs/fix_mobile.py --workdir=runs/fix_mobile

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("fix_mobile", variant)
