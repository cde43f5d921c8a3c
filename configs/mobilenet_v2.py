"""MobileNetV2 (1.0), the base network, by the same recipe: 28.00 % top-1 error in the paper's Table 1.

    python train.py --config=configs/mobilenet_v2.py --workdir=runs/mobilenet_v2

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("mobilenet_v2", variant)
