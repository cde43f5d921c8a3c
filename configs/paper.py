"""The paper's recipe for classification, of any network.

    python train.py --config=configs/paper.py --config.model.name=fix_mobile --workdir=runs/fix_mobile
    python train.py --config=configs/paper.py:digits --config.model.name=my_network --import=my_networks.py

The first needs ImageNet prepared by TFDS (docs/data.md). Variants: modern, digits, fashion_mnist, cifar10, cifar100,
imagenette (dynet_jax/config/variants.py). `--config=fix_mobile:digits` is a short form of it.
"""

from dynet_jax.config.named import recipe


def get_config(variant="imagenet2012", network="dy_mobile"):
    return recipe(network, variant)
