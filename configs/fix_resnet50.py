"""Fix-ResNet50, Dy-ResNet50's static twin, by the same recipe. The paper gives no number for it.

    python train.py --config=configs/fix_resnet50.py --workdir=runs/fix_resnet50

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("fix_resnet50", variant)
