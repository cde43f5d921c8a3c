"""MobileNetV2 with DY-CNN's convolution, a peer of DyNet, by the paper's recipe (not DY-CNN's own).

    python train.py --config=configs/dy_cnn_mobilenet_v2.py --workdir=runs/dy_cnn_mobilenet_v2

needs ImageNet prepared by TFDS (docs/data.md); the full run has not been made with this code yet. Variants: digits,
fashion_mnist, cifar10, cifar100, imagenette (see configs/common.py).
DY-CNN lowers the temperature from 30 to 1 over its first ten epochs; here it stays 30, unless one adds
--config.temperature_from=30 --config.model.temperature=1 (docs/training.md).
"""

from configs import common


def get_config(variant="imagenet2012"):
    return common.recipe("dy_cnn_mobilenet_v2", variant, group_size=4, temperature=30.0)
