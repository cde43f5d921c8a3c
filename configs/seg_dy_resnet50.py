r"""FCN on Dy-ResNet50, dilated to stride 8, on Cityscapes: 70.48 mIoU in the paper's Table 3.

    python train.py --config=configs/seg_dy_resnet50.py --workdir=runs/seg_dy_resnet50

needs Cityscapes prepared by TFDS (docs/data.md); the full run has not been made with this code yet. The recipe is
mmsegmentation's (dynet_jax/config/recipe.py).
With CamVid, or folders like its own:

    python train.py --config=configs/seg_dy_resnet50.py:camvid --workdir=runs/camvid_dy_resnet50 \
      --config.data.name=camvid:PATH
"""

from configs import common


def get_config(variant="cityscapes"):
    return common.segmentation("fcn_dy_resnet50", variant)
