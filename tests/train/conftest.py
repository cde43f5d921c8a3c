"""A network and a configuration that compile in seconds."""

import ml_collections
import pytest

from configs import common
from dynet_jax.models import registry
from tests.train.tiny import tiny_network


@pytest.fixture
def tiny_config(monkeypatch) -> ml_collections.ConfigDict:
    """Digits at 16x16, 16 steps of 64 images, on a network of one dynamic block."""

    def tiny(num_classes=10, features=12):
        return tiny_network(num_classes, strides=2, features=features, group_size=3)

    monkeypatch.setitem(registry._BUILDERS, "tiny", tiny)
    config = common.recipe("tiny", "digits").unlock()
    config.model = {"name": "tiny", "num_classes": 10}
    config.bn_batch_size = 8
    config.epochs, config.warmup_epochs = 16 / 22, 0.0
    config.log_every_steps, config.checkpoint_every_steps, config.eval_every_epochs = 4, 4, 0.5
    return config.lock()
