"""ShuffleNetV2 (1.0), the base network, by the same recipe: 30.60 % top-1 error in the paper's Table 1.

    python train.py --config=configs/shufflenet_v2.py --workdir=runs/shufflenet_v2

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("shufflenet_v2", variant)
