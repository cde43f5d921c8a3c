"""Dy-MobileNetV2 (1.0), MobileNetV2 with its own widths and dynamic blocks (Fig. 5), by the paper's recipe.

    python train.py --config=configs/dy_mobilenet_v2.py --workdir=runs/dy_mobilenet_v2

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
Fig. 5 has it at several widths: set --config.model.width, from 0.35 to 1.4. Its values are not public.
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_mobilenet_v2", variant, group_size=6)
