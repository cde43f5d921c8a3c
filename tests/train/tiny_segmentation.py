"""A configuration for segmentation that compiles in seconds, also for runs in processes of their own:

python train.py --config=tests/train/tiny_segmentation.py --config.data.name=maps:PATH
"""

from configs import common
from dynet_jax.models import registry
from dynet_jax.models.fcn import FCN
from tests.train.tiny import tiny_network


def tiny_fcn(num_classes: int = 3, auxiliary: bool = True):
    return FCN(tiny_network(num_classes, strides=2, group_size=3), num_classes, hidden_features=8, auxiliary=auxiliary)


def get_config(variant: str = "cityscapes"):
    registry._MODELS["tiny_fcn"] = registry.Registered("tiny_fcn", tiny_fcn, "segmentation")
    config = common.segmentation("tiny_fcn", variant).unlock()
    config.model = {"name": "tiny_fcn", "num_classes": 3}
    config.data.crop_size, config.data.eval_size, config.data.label_size = (32, 32), (40, 48), (64, 64)
    config.data.threads = 2
    config.batch_size, config.epochs, config.learning_rate = 8, 6.0, 0.1
    config.bn_batch_size, config.dtype = 8, "float32"
    config.log_every_steps, config.checkpoint_every_steps, config.eval_every_epochs = 4, 4, 3.0
    return config.lock()
