"""MobileNetV3-Small, the base network, by the paper's recipe (not MobileNetV3's own).

    python train.py --config=configs/mobilenet_v3_small.py --workdir=runs/mobilenet_v3_small

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("mobilenet_v3_small", variant)
