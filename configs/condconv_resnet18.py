"""ResNet18 with CondConv, a peer of DyNet, by the paper's recipe (not CondConv's own).

    python train.py --config=configs/condconv_resnet18.py --workdir=runs/condconv_resnet18

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("condconv_resnet18", variant, group_size=8)
