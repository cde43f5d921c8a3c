r"""FCN on ResNet50, dilated to stride 8, on Cityscapes: 70.03 mIoU in the paper's Table 3.

    python train.py --config=configs/seg_resnet50.py --workdir=runs/seg_resnet50

needs Cityscapes prepared by TFDS (docs/data.md); the full run has not been made with this code yet. The recipe is
mmsegmentation's (dynet_jax/config/recipe.py).
Its stem is three 3x3 convolutions, with which it has Table 3's FLOPs. To begin with torchvision's weights
(`dynet import-torch resnet50 FILE runs/resnet50`), it needs torchvision's stem and padding:
--init_from=runs/resnet50 --config.model.stem=[64] --config.model.padding=TORCH

With CamVid, or folders like its own:

    python train.py --config=configs/seg_resnet50.py:camvid --workdir=runs/camvid_resnet50 \
      --config.data.name=camvid:PATH
"""

from configs import common


def get_config(variant="cityscapes"):
    return common.segmentation("fcn_resnet50", variant, stem=(64, 64, 128))
