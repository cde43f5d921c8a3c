"""A configuration for runs in processes of their own: python train.py --config=tests/train/tiny_run.py

One dynamic block on digits at 16x16, for 40 steps of 64 images; it compiles in seconds.
"""

from configs import common
from dynet_jax.models import registry
from tests.train.tiny import tiny_network


def tiny(num_classes=10, features=12):
    return tiny_network(num_classes, strides=2, features=features, group_size=3)


def get_config(variant: str = "digits"):
    registry._MODELS.setdefault("tiny", registry.Registered("tiny", tiny))
    config = common.recipe("tiny", variant).unlock()
    config.model = {"name": "tiny", "num_classes": 10}
    config.data.flip = True
    config.bn_batch_size = 8
    config.epochs, config.warmup_epochs = 40 / 22, 0.0
    config.log_every_steps, config.checkpoint_every_steps, config.eval_every_epochs = 4, 4, 0.5
    return config.lock()
