"""Dy-mobile (1.0), the paper's ImageNet recipe: batch 2048, 300 epochs, 28.27 % top-1 error in the paper's Table 1.

    python train.py --config=configs/dy_mobile.py --workdir=runs/dy_mobile

needs ImageNet prepared by TFDS (docs/data.md) and eight TPU cores or GPUs, or --config.accumulation_steps.
The full run has not been made with this code yet. Without ImageNet:

    python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits

trains the same network, half as wide, on the digits that come with scikit-learn, in about two minutes on two CPU cores.
Other variants: modern, fashion_mnist, cifar10, cifar100, imagenette (dynet_jax/config/variants.py).
"""

from dynet_jax.config.named import recipe


def get_config(variant="imagenet2012"):
    return recipe("dy_mobile", variant)
