"""Fix-shuffle (1.0), Dy-shuffle's static twin, by the same recipe. The paper has it at width 1.5 only (Table 4).

    python train.py --config=configs/fix_shuffle.py --workdir=runs/fix_shuffle

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("fix_shuffle", variant)
