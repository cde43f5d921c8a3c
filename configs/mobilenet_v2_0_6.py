"""MobileNetV2 (0.6), by the same recipe: 33.30 % top-1 error in the paper's Table 1.

    python train.py --config=configs/mobilenet_v2_0_6.py --workdir=runs/mobilenet_v2_0_6

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
The paper quotes that row from elsewhere, with 141M; this network has 151M (docs/results.md).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("mobilenet_v2", variant, width=0.6)
