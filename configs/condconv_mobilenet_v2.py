"""MobileNetV2 with CondConv, a peer of DyNet, by the paper's recipe (not CondConv's own).

    python train.py --config=configs/condconv_mobilenet_v2.py --workdir=runs/condconv_mobilenet_v2

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("condconv_mobilenet_v2", variant, group_size=8)
