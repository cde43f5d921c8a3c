"""Fix-shuffle (1.5), Dy-shuffle's static twin (Table 4), by the same recipe: 30.30 % top-1 error in the paper.

    python train.py --config=configs/fix_shuffle_1_5.py --workdir=runs/fix_shuffle_1_5

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("fix_shuffle", variant, width=1.5)
