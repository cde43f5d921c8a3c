r"""The recipe for segmentation, of any network with an FCN's head.

    python train.py --config=configs/segmentation.py --config.model.name=fcn_resnet50 --workdir=runs/seg_resnet50
    python train.py --config=configs/segmentation.py:camvid --config.model.name=fcn_dy_mobile \
      --config.data.name=camvid:PATH --workdir=runs/camvid

The first needs Cityscapes prepared by TFDS (docs/data.md); --config=fcn_dy_mobile:camvid is short for the second's. The
recipe is mmsegmentation's (dynet_jax/config/recipe.py).
"""

from dynet_jax.config.named import segmentation


def get_config(variant="cityscapes", network="fcn_dy_resnet50"):
    return segmentation(network, variant)
