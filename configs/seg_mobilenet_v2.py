r"""FCN on MobileNetV2, dilated to stride 8, on Cityscapes: not in the paper.

    python train.py --config=configs/seg_mobilenet_v2.py --workdir=runs/seg_mobilenet_v2

needs Cityscapes prepared by TFDS (docs/data.md); the full run has not been made with this code yet. The recipe is
mmsegmentation's (dynet_jax/config/recipe.py).
With CamVid, or folders like its own:

    python train.py --config=configs/seg_mobilenet_v2.py:camvid --workdir=runs/camvid_mobilenet_v2 \
      --config.data.name=camvid:PATH
"""

from configs import common


def get_config(variant="cityscapes"):
    return common.segmentation("fcn_mobilenet_v2", variant)
