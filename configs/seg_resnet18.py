r"""FCN on ResNet18, dilated to stride 8, on Cityscapes: not in the paper.

    python train.py --config=configs/seg_resnet18.py --workdir=runs/seg_resnet18

needs Cityscapes prepared by TFDS (docs/data.md); the full run has not been made with this code yet. The recipe is
mmsegmentation's (dynet_jax/config/recipe.py).
With CamVid, or folders like its own:

    python train.py --config=configs/seg_resnet18.py:camvid --workdir=runs/camvid_resnet18 \
      --config.data.name=camvid:PATH
"""

from configs import common


def get_config(variant="cityscapes"):
    return common.segmentation("fcn_resnet18", variant)
