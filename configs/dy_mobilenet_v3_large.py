"""Dy-MobileNetV3-Large, by the paper's recipe: 77.1 % top-1 accuracy in the later extension (arXiv 2004.10694).

    python train.py --config=configs/dy_mobilenet_v3_large.py --workdir=runs/dy_mobilenet_v3_large

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
Its recipe and details are not known; docs/design.md says what was chosen.
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_mobilenet_v3_large", variant, group_size=6)
